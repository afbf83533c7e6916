"""Monitors that the script does not know of: they record what they can, and never end, change or clutter a training."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import CombinedLoader
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from dynalens import AttributionMonitor, ConceptMonitor, LayerMonitor, TrainingDynamicsMonitor, load_record
from dynalens.callbacks.environment import _HOOKS, callbacks_from_environment
from training import Classifier, N, dataset, images, labels, loader, trainer

pytestmark = pytest.mark.filterwarnings("ignore:Expected the Trainer to have a TensorBoardLogger")


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning finds the entry point, which it does where dynalens is installed, and DYNALENS is set."""
    monkeypatch.setenv("DYNALENS", "dynamics")
    place = "pytorch_lightning.trainer.connectors.callback_connector._load_external_callbacks"
    monkeypatch.setattr(place, lambda group: callbacks_from_environment())


class Boring(pl.LightningModule):
    """As Lightning's own BoringModel: no classes anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(36, 2)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return {"loss": self.layer(self.rows(batch)).sum()}

    def rows(self, batch: Any) -> Tensor:
        x: Tensor = batch[0] if isinstance(batch, list) else batch
        return x.flatten(1) / N

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return self.layer(self.rows(batch))

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        return self.layer(self.rows(batch)).sum()

    def test_step(self, batch: Any, batch_idx: int) -> Any:
        return self.layer(self.rows(batch)).sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Regression(Boring):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.mse_loss(self.layer(self.rows(batch))[:, 0], batch[1].float())


class Critic(Boring):
    """Of a least-squares GAN."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        scores = self.layer(self.rows(batch))
        return F.mse_loss(scores, torch.ones_like(scores))


class Autoencoder(Boring):
    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Linear(2, 36)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        rows = self.rows(batch)
        return F.mse_loss(self.decoder(self.layer(rows).sigmoid()), rows)


class Manual(Boring):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.layer(self.rows(batch)).square().mean())
        optimizer.step()


class GAN(Boring):
    """Two optimizers, whose classes are real and fake."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.judge = nn.Linear(4, 36), nn.Linear(36, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        rows = self.rows(batch)
        optimizers: Any = self.optimizers()
        of_judge, of_generator = optimizers
        fake = self.generator(torch.ones(len(rows), 4))
        judged = self.judge(torch.cat([rows, fake.detach()])).flatten()
        truth = torch.cat([torch.ones(len(rows)), torch.zeros(len(rows))])
        of_judge.zero_grad()
        self.manual_backward(F.binary_cross_entropy_with_logits(judged, truth))
        of_judge.step()
        of_generator.zero_grad()
        fooled = self.judge(fake).flatten()
        self.manual_backward(F.binary_cross_entropy_with_logits(fooled, torch.ones(len(rows))))
        of_generator.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(part.parameters()) for part in (self.judge, self.generator)]


class Alternating(GAN):
    """Begins its backward passes without Lightning."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer: Any = self.optimizers()[batch_idx % 2]  # type: ignore[index]  # there are two
        optimizer.zero_grad()
        self.judge(self.generator(torch.ones(3, 4))).mean().backward()
        optimizer.step()


class Combined(Boring):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch["a"], batch_idx) if batch["a"] is not None else None


class Skips(Boring):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return None


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(images())


class Redrawn(TensorDataset):
    """Labels that are drawn anew."""

    def __getitem__(self, i: Any) -> Any:
        self.calls = getattr(self, "calls", 0) + 1
        return self.tensors[0][i], torch.tensor(self.calls % 3)


class Pairs(Classifier):
    """Contrastive: each row of scores has its counterpart at another place."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        z = self(batch[0] / N)
        return F.cross_entropy(torch.cat([z, z]) @ z.T, torch.arange(len(z)).repeat(2))


def only_images() -> DataLoader[Any]:
    return loader(images())  # type: ignore[arg-type]  # a tensor is a dataset, too


def draws_names() -> DataLoader[Any]:
    """Of a dataset whose samples have names."""

    class Named(TensorDataset):
        def __getitem__(self, i: Any) -> Any:
            place = int(str(i).removeprefix("sample "))
            return self.tensors[0][place], self.tensors[1][place]

    return DataLoader(Named(images(), labels()), batch_size=4, sampler=[f"sample {i}" for i in range(N)])


FITS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "boring": (Boring, only_images),
    "boring, with labels": (Boring, loader),
    "boring, iterable": (Boring, lambda: DataLoader(Stream(), batch_size=4)),
    "boring, a list of batches": (Boring, lambda: [images()[:4], images()[4:8]]),
    "critic": (Critic, loader),
    "autoencoder": (Autoencoder, loader),
    "manual": (Manual, loader),
    "GAN": (GAN, loader),
    "alternating": (Alternating, loader),
    "combined": (Combined, lambda: CombinedLoader({"a": only_images(), "b": only_images()}, "max_size")),
    "labels drawn anew": (Classifier, lambda: loader(Redrawn(images(), labels()))),
    "contrastive": (Pairs, loader),
    "a sampler of names": (Classifier, draws_names),
}


def ended(folder: Path, model: Callable[[], Any], data: Callable[[], Any], **options: Any) -> Any:
    pl.seed_everything(3, verbose=False)
    module = model()
    trainer(folder, max_epochs=2, **options).fit(module, data())
    return module


@pytest.mark.filterwarnings(
    "ignore:Explanations are switched off", "ignore:Expected a batch whose first images",
    "ignore:Expected a classification loss in `training_step`, got none. AttributionMonitor takes labels",
)  # fmt: skip
@pytest.mark.parametrize("values", ["dynamics", "dynamics,attribution"])
@pytest.mark.parametrize(("model", "data"), FITS.values(), ids=FITS.keys())
def test_a_fit_that_cannot_be_recorded_goes_on_with_one_warning_and_leaves_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: Callable[[], Any],
    data: Callable[[], Any],
    values: str,
) -> None:
    functions = F.cross_entropy, F.binary_cross_entropy_with_logits, F.mse_loss
    monkeypatch.setenv("DYNALENS", values)
    with pytest.warns(
        UserWarning, match="The callbacks that DYNALENS names are switched off in this fit, training goes on"
    ) as said:
        watched = ended(tmp_path, model, data)
    warned = [str(each.message) for each in said if "DYNALENS" in str(each.message)]
    assert len(warned) == 1 or (values != "dynamics" and len(warned) == 2)
    if "drawn anew" not in warned[0]:  # which shows in the second epoch
        assert not list(tmp_path.rglob("record.npz"))
        assert values != "dynamics" or not list(tmp_path.iterdir())
    assert (F.cross_entropy, F.binary_cross_entropy_with_logits, F.mse_loss) == functions
    monkeypatch.setenv("DYNALENS", "")
    plain = ended(tmp_path / "plain", model, data)
    assert all(torch.equal(a, b) for a, b in zip(watched.parameters(), plain.parameters(), strict=True))


def test_a_script_of_a_regression_is_recorded_as_one(tmp_path: Path) -> None:
    ended(tmp_path, Regression, loader)
    statistics = load_record(tmp_path / "dynalens" / "environment").statistics
    assert statistics.target is not None
    assert statistics.target.tolist() == labels().tolist()


@pytest.mark.filterwarnings("ignore:.*training_step.* returned .None.")
def test_a_fit_whose_steps_are_all_skipped_is_no_error(tmp_path: Path) -> None:
    ended(tmp_path, Skips, loader)
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:Total length of .(CombinedLoader|DataLoader). across ranks is zero")
def test_an_empty_dataset_ends_no_script(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="switched off in this fit.*Expected a training dataset with samples"):
        ended(tmp_path, Classifier, lambda: loader(dataset(0), shuffle=False))
    assert not list(tmp_path.iterdir())


def test_a_trainer_that_does_not_fit_is_left_alone(tmp_path: Path) -> None:
    runner, model = trainer(tmp_path), Boring()
    runner.validate(model, loader(shuffle=False), verbose=False)
    runner.test(model, loader(shuffle=False), verbose=False)
    assert len(runner.predict(model, loader(shuffle=False)) or ()) == 6
    runner = trainer(tmp_path, fast_dev_run=True)
    runner.fit(model, loader())
    assert not list(tmp_path.iterdir())


def test_a_classifier_is_recorded_and_an_error_of_the_script_stays_its_own(tmp_path: Path) -> None:
    class Fails(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if self.current_epoch == 1:
                raise RuntimeError("on purpose")
            return super().training_step(batch, batch_idx)

    with pytest.raises(RuntimeError, match="on purpose"):
        ended(tmp_path, Fails, loader)
    record = load_record(tmp_path / "dynalens" / "environment")
    assert record.statistics.presentations.tolist() == [1] * N


def concepts(layer: str = "net.1") -> ConceptMonitor:
    x = images(4).float()
    return ConceptMonitor(layer=layer, samples=(x, labels(4)), masks={"all": torch.ones(4, 6, 6)}, top=0.2)


def concepts_of_nothing() -> ConceptMonitor:
    return concepts("nothing")


def test_a_monitor_that_a_callable_returns_works_and_one_that_cannot_is_switched_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYNALENS", f"{__name__}.concepts, {__name__}.concepts_of_nothing")
    monitors = callbacks_from_environment()
    assert type(pickle.loads(pickle.dumps(monitors[0]))) is type(monitors[0])
    monkeypatch.setenv("DYNALENS", f"{__name__}.concepts")
    runner = trainer(tmp_path, logger=TensorBoardLogger(tmp_path))
    runner.fit(Classifier(), loader())
    events = EventAccumulator(str(runner.log_dir))
    events.Reload()
    assert any(tag.startswith("dynalens/environment/concepts/dissection") for tag in events.Tags()["images"])
    monkeypatch.setenv("DYNALENS", f"{__name__}.concepts_of_nothing")
    with pytest.warns(UserWarning, match="switched off in this fit, training goes on: ValueError: Expected `layer`"):
        trainer(tmp_path).fit(Classifier(), loader())


def of_the_environment(runner: pl.Trainer) -> list[Any]:
    return [callback for callback in runner.callbacks if getattr(callback, "name", "").startswith("environment")]  # type: ignore[attr-defined]  # of Trainer


@pytest.mark.parametrize("shared", [True, False], ids=["one list", "a list each"])
def test_each_trainer_of_a_script_has_a_folder_of_its_own(tmp_path: Path, shared: bool) -> None:
    callbacks: list[Any] = [pl.Callback()]
    options: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    options |= {"enable_model_summary": False, "enable_checkpointing": False, "default_root_dir": str(tmp_path)}
    runners = []
    for epochs in (1, 2, 3):
        runners.append(pl.Trainer(max_epochs=epochs, callbacks=callbacks if shared else [], **options))
        runners[-1].fit(Classifier(), loader())
    for name, epochs in (("environment", 1), ("environment-2", 2), ("environment-3", 3)):
        assert load_record(tmp_path / "dynalens" / name).statistics.presentations.tolist() == [epochs] * N
    assert len(of_the_environment(runners[-1])) == (3 if shared else 1)


def test_a_trainer_that_resumes_continues_the_record_of_an_earlier_one(tmp_path: Path) -> None:
    first = trainer(tmp_path, max_epochs=1)
    first.fit(Classifier(), loader())
    first.save_checkpoint(tmp_path / "saved.ckpt")
    second = trainer(tmp_path / "b", max_epochs=3)
    second.fit(Classifier(), loader(), ckpt_path=tmp_path / "saved.ckpt")
    record = load_record(tmp_path / "b" / "dynalens" / "environment")
    assert record.statistics.presentations.tolist() == [3] * N
    assert len(list(record.history())) == 3


def test_one_trainer_begins_anew_after_a_fit_that_could_not_be_recorded(tmp_path: Path) -> None:
    runner = trainer(tmp_path, max_epochs=1)
    with pytest.warns(UserWarning, match="switched off in this fit"):
        runner.fit(Critic(), loader())
    runner.fit_loop.max_epochs = 2
    runner.fit(Classifier(), loader())
    (monitor,) = of_the_environment(runner)
    assert monitor.statistics().presentations.tolist() == [1] * N


def test_explanations_of_the_script_are_drawn_where_the_record_gave_up(tmp_path: Path) -> None:
    monitor = AttributionMonitor(metrics=(), on_error="raise")
    runner = trainer(tmp_path, monitor, max_epochs=2)
    with pytest.warns(UserWarning, match="switched off in this fit"):
        runner.fit(Classifier(), loader(Redrawn(images(), labels())))
    assert len(list((tmp_path / "dynalens" / "explanations").iterdir())) == 2


class OwnOrder(DataLoader[Any]):
    """May skip or reorder batches, so that no sample of it is known."""

    def __iter__(self) -> Any:
        yield from super().__iter__()


def test_explanations_do_not_ask_a_record_that_gave_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNALENS", "dynamics,attribution")
    with pytest.warns(UserWarning, match="switched off in this fit.*an `__iter__` of its own") as told:
        trainer(tmp_path, max_epochs=1).fit(Classifier(), OwnOrder(dataset(), batch_size=4))
    assert not [each for each in told if "Explanations" in str(each.message)]
    assert len(list((tmp_path / "dynalens" / "environment" / "explanations").iterdir())) == 1


def test_monitors_of_the_environment_can_be_pickled_for_spawned_processes() -> None:
    (monitor,) = callbacks_from_environment()
    copy = pickle.loads(pickle.dumps(monitor))
    assert type(copy) is type(monitor)
    assert copy.state_key == monitor.state_key


@pytest.mark.parametrize("monitor", [AttributionMonitor, ConceptMonitor, LayerMonitor, TrainingDynamicsMonitor])
def test_each_hook_in_which_a_monitor_works_is_guarded(monitor: type) -> None:
    hooks = {name for name, hook in vars(pl.Callback).items() if callable(hook) and not name.startswith("_")}
    own_hooks = {name for name in hooks if getattr(monitor, name) is not getattr(pl.Callback, name)}
    assert own_hooks <= set(_HOOKS)
