"""The record that a fit leaves equals what the model itself saw, and every misuse has its one error."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor
from torch.nn import functional as F
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

from dynalens import CaptureError, SampleIdentityError, TrainingDynamics, TrainingDynamicsMonitor, load_record
from test_dynamics import assert_same
from test_losses import Manual
from training import Classifier, K, N, dataset, fit, images, labels, loader, trainer

pytestmark = pytest.mark.usefixtures("undrawn")


def by_the_model(*models: Classifier, n: int = N) -> TrainingDynamics:
    """The record of what the models' own steps saw."""
    expected, number = TrainingDynamics(n), 0
    for model in models:
        for epoch in sorted({epoch for epoch, *_ in model.seen}):
            for seen, index, logits, y in model.seen:
                if seen == epoch:
                    expected.update(index, logits, y)
            expected.end_epoch(number)
            number += 1
    return expected


def test_the_record_equals_what_the_model_saw(tmp_path: Path) -> None:
    monitor = TrainingDynamicsMonitor()
    model = fit(tmp_path, monitor)
    assert_same(monitor.statistics(), by_the_model(model).compute())
    assert monitor.statistics().presentations.tolist() == [3] * N


def test_the_table_covers_the_dataset_and_suspects_are_sorted(tmp_path: Path) -> None:
    monitor = TrainingDynamicsMonitor(class_names=["x", "y", "z"])
    fit(tmp_path, monitor, data=lambda: loader(Subset(dataset(60), range(30, 30 + N))))
    table, suspects = monitor.table(), monitor.suspects()
    assert table.index.tolist() == list(range(N))
    assert table["root_index"].tolist() == list(range(30, 30 + N))
    assert suspects["rank"].tolist() == list(range(1, N + 1))
    assert suspects["score"].is_monotonic_decreasing
    np.testing.assert_array_equal(table["score_aum"], -monitor.statistics().margin)
    assert monitor.suspects(3).index.tolist() == suspects.index[:3].tolist()
    assert monitor.clean_indices() == [i for i in range(N) if not table["flagged"][i]]
    assert set(table["label_name"]) == {"x", "y", "z"}


def test_clean_indices_and_weights_follow_the_table(tmp_path: Path) -> None:
    monitor, data = TrainingDynamicsMonitor(), dataset()
    fit(tmp_path, monitor)
    table = monitor.table()
    assert monitor.suspects(precision=0.9).index.tolist() == [i for i in monitor.suspects().index if i not in
                                                              monitor.clean_indices(precision=0.9)]  # fmt: skip
    rate = monitor.noise_rate()
    assert rate.low <= rate.value <= rate.high
    np.testing.assert_allclose(monitor.weights(), 1 - table["wrong_probability"])
    changed = monitor.relabelled(data)
    flagged = table["flagged"] & table["suggested"].notna()
    for i in range(N):
        assert int(changed[i][1]) == (table["suggested"][i] if flagged[i] else int(labels()[i]))
        assert changed[i][0] is not None
    with pytest.raises(ValueError, match="the one that was trained on, with 22 samples, got 60"):
        monitor.relabelled(dataset(60))


def test_names_of_samples_come_from_the_dataset_or_a_callable(tmp_path: Path) -> None:
    folder, data = TrainingDynamicsMonitor(), dataset(60)
    data.samples = [(f"{i}.png", 0) for i in range(60)]  # type: ignore[attr-defined]  # as torchvision's image folders
    fit(tmp_path / "a", folder, data=lambda: loader(Subset(data, range(30, 30 + N))))
    assert folder.table()["name"].tolist() == [f"{i}.png" for i in range(30, 30 + N)]
    assert load_record(tmp_path / "a").table()["name"].tolist() == folder.table()["name"].tolist()
    named = TrainingDynamicsMonitor(name_of=lambda i: f"sample {i}")
    fit(tmp_path / "b", named)
    assert named.table()["name"].tolist() == [f"sample {i}" for i in range(N)]


def test_class_names_come_from_the_dataset(tmp_path: Path) -> None:
    monitor, data = TrainingDynamicsMonitor(), dataset()
    data.classes = ["x", "y", "z"]  # type: ignore[attr-defined]  # as torchvision's datasets have it
    fit(tmp_path, monitor, data=lambda: loader(data))
    assert monitor.table()["label_name"][1] == ["x", "y", "z"][int(labels()[1])]


class HuggingFaceClassification(Classifier):
    config = SimpleNamespace(id2label={0: "cat", 1: "dog", 2: "owl"})


def test_class_names_come_from_the_network_if_the_dataset_has_none(tmp_path: Path) -> None:
    monitor = TrainingDynamicsMonitor()
    fit(tmp_path, monitor, model=HuggingFaceClassification(), max_epochs=1)
    assert monitor.record.meta.class_names == monitor.class_names == ["cat", "dog", "owl"]
    assert set(monitor.suspects()["label_name"]) <= {"cat", "dog", "owl"}


@pytest.mark.usefixtures("drawn")
def test_files_hold_the_record(tmp_path: Path) -> None:
    monitor = TrainingDynamicsMonitor()
    model = fit(tmp_path, monitor, logger=CSVLogger(tmp_path))
    run = tmp_path / "lightning_logs" / "version_0"
    record = load_record(run)
    assert_same(record.statistics, monitor.statistics())
    assert record.table().equals(monitor.table())
    for (epoch, history), ended in zip(record.history(), range(3), strict=True):
        assert epoch == ended
        assert history["index"].tolist() == [i for e, index, _, _ in model.seen if e == epoch for i in index]
    assert sorted(path.name for path in (run / "dynalens").iterdir()) == [
        "history", "meta.json", "pictures", "pictures.npz", "record.npz", "samples.csv", "suspects.csv",
    ]  # fmt: skip


def test_the_suggestion_comes_from_the_record_without_history(tmp_path: Path) -> None:
    monitor = TrainingDynamicsMonitor(history=False, save_dir=tmp_path / "here", name="a")
    fit(tmp_path, monitor)
    assert not (tmp_path / "here" / "history").exists()
    candidate = monitor.statistics().candidate
    assert monitor.table()["suggested"].fillna(-1).tolist() == candidate.tolist()
    assert monitor.save(tmp_path / "elsewhere") == tmp_path / "elsewhere"
    assert_same(load_record(tmp_path / "elsewhere").statistics, monitor.statistics())


class StopsAt(Classifier):
    def __init__(self, epoch: int, error: type[BaseException]) -> None:
        super().__init__()
        self.stop, self.error = epoch, error

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.current_epoch == self.stop and batch_idx == 2:
            raise self.error("stop here")
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_fit_leaves_its_complete_epochs_on_disk(tmp_path: Path, error: type[BaseException]) -> None:
    monitor, model = TrainingDynamicsMonitor(), StopsAt(1, error)
    # Lightning itself turns Ctrl-C into SystemExit.
    with pytest.raises((error, SystemExit)):
        fit(tmp_path, monitor, model=model)
    model.seen = [seen for seen in model.seen if seen[0] == 0]
    assert_same(monitor.statistics(), by_the_model(model).compute())
    record = load_record(tmp_path)
    assert_same(record.statistics, monitor.statistics())
    assert (record.meta.epochs, record.meta.incomplete_epochs) == ([0], [1])
    assert (tmp_path / "dynalens" / "suspects.csv").exists()


def test_a_result_needs_an_epoch_that_has_ended(tmp_path: Path) -> None:
    monitor = TrainingDynamicsMonitor()
    for ask in (monitor.statistics, monitor.table, monitor.suspects, monitor.clean_indices, monitor.save):
        with pytest.raises(RuntimeError, match="at least one complete epoch of training, got none"):
            ask()


def test_a_second_fit_continues_and_reset_starts_anew(tmp_path: Path) -> None:
    monitor = TrainingDynamicsMonitor()
    first = fit(tmp_path / "a", monitor)
    second = fit(tmp_path / "b", monitor)
    assert_same(monitor.statistics(), by_the_model(first, second).compute())
    assert load_record(tmp_path / "b").meta.epochs == [0, 1, 2, 3, 4, 5]
    assert len(list(load_record(tmp_path / "b").history())) == 6
    monitor.reset()
    third = fit(tmp_path / "b", monitor)
    assert_same(monitor.statistics(), by_the_model(third).compute())
    assert len(list((tmp_path / "b" / "dynalens" / "history").iterdir())) == 3


class ByName(Classifier):
    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(logits, y)


@pytest.mark.parametrize("kinds", [(Classifier, ByName), (Manual, Manual)])
def test_a_second_fit_sees_losses_as_the_first_one_did(
    tmp_path: Path, kinds: tuple[Callable[[], Classifier], ...]
) -> None:
    monitor = TrainingDynamicsMonitor()
    models = [fit(tmp_path / str(number), monitor, model=kind()) for number, kind in enumerate(kinds)]
    assert_same(monitor.statistics(), by_the_model(*models).compute())


@pytest.mark.usefixtures("drawn")
def test_validate_test_predict_sanity_check_and_fast_dev_run_leave_no_trace(tmp_path: Path) -> None:
    class Whole(Classifier):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            F.cross_entropy(self(batch[0]), batch[1])

        def predict_step(self, batch: Any, batch_idx: int) -> Any:
            return self(batch[0])

    def in_order() -> DataLoader[Any]:
        return loader(shuffle=False)

    monitor, model = TrainingDynamicsMonitor(), Whole()
    fit(tmp_path, monitor, model=model, val=in_order, fast_dev_run=True)
    runner = trainer(tmp_path, monitor)
    runner.validate(model, in_order(), verbose=False)
    runner.test(model, in_order(), verbose=False)
    runner.predict(model, in_order())
    with pytest.raises(RuntimeError, match=r"got none.*records nothing with `fast_dev_run`"):
        monitor.statistics()
    assert monitor.state_dict() == {}
    assert list(tmp_path.iterdir()) == []
    model.seen = []
    fit(tmp_path, monitor, model=model, val=in_order)
    runner.validate(model, in_order(), verbose=False)
    assert_same(monitor.statistics(), by_the_model(model).compute())


def test_non_finite_logits_are_counted_and_shown(tmp_path: Path) -> None:
    class Overflows(Classifier):
        def forward(self, x: Tensor) -> Tensor:
            first = x[:, 0, 0, 0] == 0  # sample 0
            return torch.where(first.unsqueeze(1), torch.nan, super().forward(x))

        def loss(self, logits: Tensor, y: Tensor) -> Tensor:
            return super().loss(logits, y).nan_to_num() * 0

    monitor = TrainingDynamicsMonitor()
    fit(tmp_path, monitor, model=Overflows(), logger=CSVLogger(tmp_path))
    assert monitor.statistics().presentations.tolist() == [0] + [3] * (N - 1)
    log = np.genfromtxt(
        tmp_path / "lightning_logs/version_0/metrics.csv", delimiter=",", names=True, deletechars="", dtype=float
    )
    assert log["dynalens/dynamics/non_finite"].tolist() == [1, 1, 1]


@pytest.mark.filterwarnings("ignore:Expected a folder without a record")
def test_views_count_each_row_for_its_sample(tmp_path: Path) -> None:
    class TwoViews(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x, y = batch
            logits, both = self(torch.cat([x, x.flip(3)]) / N), torch.cat([y, y])
            self.remember(torch.cat([x, x]), logits, both)
            return self.loss(logits, both)

    monitor = TrainingDynamicsMonitor(views=2)
    model = fit(tmp_path, monitor, model=TwoViews())
    assert_same(monitor.statistics(), by_the_model(model).compute())
    with pytest.raises(
        SampleIdentityError, match=r"4 rows of logits for 4 samples in the batch, got 8. Pass `views=2`"
    ):
        fit(tmp_path, TrainingDynamicsMonitor(), model=TwoViews())


def drops_samples(batch: Any) -> Any:
    x, y = torch.utils.data.default_collate(batch)
    return x.new_zeros(x[1:].shape), y[1:]  # no image tells which samples these are


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(dataset())


class TwoLosses(Classifier):
    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits, y) + F.cross_entropy(logits * 2, y)


class Soft(Classifier):
    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits, (F.one_hot(y, K) + F.one_hot(y.flip(0), K)) / 2)


class NoLoss(Classifier):
    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return (logits - F.one_hot(y, K)).square().mean()


MISUSE: dict[str, tuple[dict[str, Any], dict[str, Any], type[Exception], str]] = {
    "iterable": (
        {},
        {"data": lambda: DataLoader(Stream(), batch_size=4)},
        SampleIdentityError,
        "has no index.*`index=",
    ),
    "collate": (
        {},
        {"data": lambda: loader(collate_fn=drops_samples)},
        SampleIdentityError,
        "the collate function to keep the order of its samples.*`IndexedDataset`",
    ),
    "two losses": ({}, {"model": TwoLosses}, CaptureError, "one classification loss .* got 2: .*`capture="),
    "soft": ({}, {"model": Soft}, CaptureError, r"one class index .* got targets of shape \(4, 3\).*`logits` \(N, K\)"),
    "no loss": ({}, {"model": NoLoss}, CaptureError, "one classification loss .* got none"),
    "empty": (
        {},
        {"data": lambda: loader(TensorDataset(images(0), labels(0)), shuffle=False)},
        SampleIdentityError,
        "a training dataset with samples, got 0",
    ),
    "wrong layer": ({"capture": "module:nett"}, {}, ValueError, "`capture` .*'nett'.* nearest names are: net"),
    "wrong key": ({"index": "position"}, {}, SampleIdentityError, "the key 'position', got a list"),
}


@pytest.mark.filterwarnings("ignore:Total length of")  # an empty dataset: Lightning's, before the error
@pytest.mark.parametrize(("arguments", "options", "error", "message"), MISUSE.values(), ids=MISUSE.keys())
def test_misuse_raises_one_clear_error_and_leaves_nothing_patched(
    tmp_path: Path, arguments: dict[str, Any], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    functions = F.cross_entropy, F.nll_loss, F.binary_cross_entropy_with_logits
    given = {name: value() if name == "model" else value for name, value in options.items()}
    with pytest.raises(error, match=message):
        fit(tmp_path, TrainingDynamicsMonitor(**arguments), **given)
    assert (F.cross_entropy, F.nll_loss, F.binary_cross_entropy_with_logits) == functions


def test_labels_that_change_stop_the_training_within_the_epoch(tmp_path: Path) -> None:
    class Redrawn(TensorDataset):
        def __getitem__(self, i: Any) -> Any:
            x = self.tensors[0][i]
            self.calls = getattr(self, "calls", 0) + 1
            return x, torch.tensor(self.calls % K)

    monitor = TrainingDynamicsMonitor()
    with pytest.raises(ValueError, match=r"label of a sample to stay the same, got \d+ samples whose label changed"):
        fit(tmp_path, monitor, data=lambda: loader(Redrawn(images(), labels())))


def test_an_index_in_the_batch_is_the_same_record(tmp_path: Path) -> None:
    data = TensorDataset(images(), labels(), torch.arange(N))

    class Three(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch[:2], batch_idx)

    automatic, explicit = TrainingDynamicsMonitor(name="a"), TrainingDynamicsMonitor(index=lambda b: b[2], name="b")
    fit(tmp_path, automatic, explicit, model=Three(), data=lambda: loader(data))
    assert_same(automatic.statistics(), explicit.statistics())
    assert_same(load_record(tmp_path / "dynalens" / "a").statistics, explicit.statistics())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"views": 0}, "`views` to be at least 1, got 0"),
        ({"top_k": 0}, "`top_k` to be at least 1, got 0"),
        ({"log_every_n_epochs": 0}, "`log_every_n_epochs` to be at least 1"),
        ({"x_axis": "time"}, "`x_axis` to be 'step' or 'epoch', got 'time'"),
        ({"capture": "logits"}, "`capture` to be 'auto'"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingDynamicsMonitor(**arguments)


SAMPLER = "samples: identified by their positions, which the sampler drew"


def test_the_plan_is_said_once_in_each_fit_with_the_record_that_it_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("dynalens.callbacks.training_dynamics.announce", said.append)
    monitor, line = TrainingDynamicsMonitor(), "dynalens: logits: input of cross_entropy [4, 3]; targets: its argument"
    fit(tmp_path, monitor, max_epochs=2)
    assert said == [f"{line}; {SAMPLER}"]
    fit(tmp_path, monitor, max_epochs=1)
    assert said[1:] == [f"{line}; {SAMPLER}; continues the record of 2 epochs (`reset()` begins a new one)"]
    monitor.reset()
    fit(tmp_path, monitor, max_epochs=1)
    assert said[2:] == said[:1]
    fit(tmp_path, monitor, max_epochs=2)
    assert said[3:] == [f"{line}; {SAMPLER}; continues the record of 1 epoch (`reset()` begins a new one)"]


def test_meta_names_version_epochs_and_length(tmp_path: Path) -> None:
    fit(tmp_path, TrainingDynamicsMonitor(), max_epochs=1)
    meta = json.loads((tmp_path / "dynalens" / "meta.json").read_text())
    assert meta == {"version": 1, "num_samples": N, "epochs": [0], "incomplete_epochs": [], "class_names": None}


def test_classes_and_pictures_are_those_of_the_new_data_after_a_reset(tmp_path: Path) -> None:
    def named(names: list[str], n: int) -> Any:
        data = dataset(n)
        data.classes = names  # type: ignore[attr-defined]  # as torchvision's datasets have it
        return lambda: loader(data)

    monitor = TrainingDynamicsMonitor(save_dir=tmp_path / "record", top_k=N)
    fit(tmp_path, monitor, data=named(["x", "y", "z"], N))
    assert set(load_record(tmp_path / "record").pictures()) == set(range(N))
    monitor.reset()
    fit(tmp_path, monitor, data=named(["u", "v", "w"], 30), max_epochs=1)
    assert set(monitor.table()["label_name"]) == {"u", "v", "w"}
    assert load_record(tmp_path / "record").pictures() == {}  # suspects are known from the second epoch on


def test_samples_are_named_by_their_ids(tmp_path: Path) -> None:
    class Carries(TensorDataset):
        def __getitem__(self, i: Any) -> Any:
            return {"x": self.tensors[0][i], "y": self.tensors[1][i], "id": f"folder/{i}.png"}

    class OfDicts(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step((batch["x"], batch["y"]), batch_idx)

    monitor = TrainingDynamicsMonitor(index="id", name_of=lambda known: known.split("/")[-1])
    fit(tmp_path, monitor, model=OfDicts(), data=lambda: loader(Carries(images(), labels())))
    table = monitor.table()
    assert table["name"].tolist() == [known.split("/")[-1] for known in table.index]
    assert load_record(tmp_path).names() == table["name"].tolist()
