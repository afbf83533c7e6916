"""Whatever the loader, the record is that of the samples really trained on, and training stays bit-identical."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BatchSizeFinder, LearningRateFinder, ModelCheckpoint
from pytorch_lightning.utilities import CombinedLoader
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    Subset,
    WeightedRandomSampler,
    default_collate,
    get_worker_info,
    random_split,
)

from dynalens import IndexedDataset, SampleIdentityError, TrainingDynamics, TrainingDynamicsMonitor, load_record
from dynalens.identity.loaders import Iteration
from spawned import Noisy, brightness, by_brightness
from test_dynamics import assert_same
from training import Classifier, K, N, fit, images, labels, trainer

pytestmark = [
    pytest.mark.usefixtures("undrawn"),
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),  # torchdata calls it
    pytest.mark.filterwarnings("ignore:train_dataloader yielded None"),
    pytest.mark.filterwarnings("ignore:.*`dataloader_iter`"),
]


class Augmented(Noisy):
    """Draws from the global generator for each sample; the index stays in the first pixel."""

    def __init__(self, n: int = N) -> None:
        super().__init__(images(n), labels(n))


class AtOnce(Augmented):
    def __getitems__(self, indices: list[int]) -> list[Any]:
        noise = 0.1 * torch.randn(1)
        return [(self.images[i].index_put((torch.tensor(0), torch.tensor(1)), noise), self.labels[i]) for i in indices]


class Whole(Augmented):
    """Returns a batch for a list of indices."""

    def __getitem__(self, i: Any) -> tuple[Tensor, Tensor]:
        return self.images[i], self.labels[i]


class Remembers(Augmented):
    """Has a state that a stateful loader keeps, and that its samples depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        self.calls += 1
        x = self.images[i].clone()
        x[:, 0, 1] = self.calls
        return x, self.labels[i]

    def state_dict(self) -> dict[str, int]:
        return {"calls": self.calls}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.calls = state["calls"]


class Slow(Augmented):
    """Its first worker is late, so that batches overtake each other."""

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        info = get_worker_info()
        if info is not None and info.id == 0:
            time.sleep(0.02)
        return super().__getitem__(i)


class RandomBatches:
    """No BatchSampler, and its draws come from the global generator."""

    def __iter__(self) -> Iterator[list[int]]:
        for _ in range(5):
            yield torch.randint(N, (3,)).tolist()


class CountedBatches(RandomBatches):
    def __len__(self) -> int:
        return 5


class SameList(RandomBatches):
    """Changes a list that it has handed out."""

    def __iter__(self) -> Iterator[list[int]]:
        batch: list[int] = []
        for drawn in super().__iter__():
            batch[:] = drawn
            yield batch


class DrawsAtOnce:
    """Draws from the global generator when its iteration begins, before the loader draws its seed."""

    def __iter__(self) -> Iterator[list[int]]:
        return iter(torch.randperm(N).view(-1, 2).tolist())

    def __len__(self) -> int:
        return N // 2


def loader(data: Dataset[Any] | None = None, **options: Any) -> DataLoader[Any]:
    return DataLoader(data or Augmented(), **({"batch_size": 4, "shuffle": True} | options))


def stateful(data: Dataset[Any] | None = None, **options: Any) -> Any:
    torchdata = pytest.importorskip("torchdata.stateful_dataloader")
    return torchdata.StatefulDataLoader(data or Augmented(), **({"batch_size": 4, "shuffle": True} | options))


def weighted() -> DataLoader[Any]:
    return loader(shuffle=False, sampler=WeightedRandomSampler([i + 1.0 for i in range(N)], N))


def whole_batches(**options: Any) -> DataLoader[Any]:
    return DataLoader(Whole(), batch_size=None, sampler=BatchSampler(RandomSampler(range(N)), 4, False), **options)


def nested_subsets() -> DataLoader[Any]:
    outer, _ = random_split(Subset(Augmented(40), range(39, 9, -1)), [N, 8], torch.Generator().manual_seed(0))
    return loader(outer)


def running_workers() -> DataLoader[Any]:
    data = loader(num_workers=1, persistent_workers=True)
    next(iter(data))
    return data


def knows_its_dataset(worker_id: int) -> None:
    info: Any = get_worker_info()
    assert type(info.dataset) is Augmented
    info.dataset.images = info.dataset.images + 1
    info.dataset.images[:, :, 0, 0] -= 1


def without_label_two(samples: list[Any]) -> Any:
    return None if any(y == 2 for _, y in samples) and len(samples) == 2 else default_collate(samples)


def sorted_in_place(samples: list[Any]) -> Any:
    samples.sort(key=brightness)
    return [torch.stack([x for x, _ in samples]), torch.stack([y for _, y in samples])]


def without_dark(samples: list[Any]) -> Any:
    return default_collate([sample for sample in samples if brightness(sample) > 0] or samples[:1])


class Detections(Augmented):
    """Gives each image a target of its own, as datasets of boxes do."""

    def __getitem__(self, i: Any) -> Any:
        x, y = super().__getitem__(i)
        return x, {"labels": y[None], "boxes": torch.zeros(1 + int(y), 4)}


class Detects(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, targets = batch
        return super().training_step((torch.stack(x), torch.cat([each["labels"] for each in targets])), batch_idx)


def in_lists(samples: list[Any]) -> Any:
    return tuple(zip(*samples, strict=True))


class OneClass(Augmented):
    """Only the images tell its samples apart."""

    def __init__(self) -> None:
        super().__init__()
        self.labels = torch.ones_like(self.labels)


class Sized(Augmented):
    """Asks for a position with a size, or for a dict of both."""

    def __getitem__(self, i: Any) -> tuple[Tensor, Tensor]:
        i = i["index"] if isinstance(i, dict) else i[0]
        return super().__getitem__(i)


class BySize(Augmented):
    """Asks for a size, and then for a position."""

    def __getitem__(self, key: Any) -> tuple[Tensor, Tensor]:
        return super().__getitem__(key[1])


class Draws(RandomSampler):
    """Draws positions in a form of its own."""

    def __init__(self, form: Callable[[int], Any]) -> None:
        super().__init__(range(N))
        self.form = form

    def __iter__(self) -> Iterator[Any]:
        return map(self.form, super().__iter__())


def draws(form: Callable[[int], Any], data: Dataset[Any] | None = None, **options: Any) -> DataLoader[Any]:
    return loader(data, sampler=Draws(form), shuffle=False, **options)


class Data(pl.LightningDataModule):
    """Makes a new dataset for each request."""

    def __init__(self) -> None:
        super().__init__()
        self.batch_size = 3

    def val_dataloader(self) -> Any:
        return loader(shuffle=False)

    def train_dataloader(self) -> Any:
        return loader(batch_size=self.batch_size)


class AsksForSteps(Classifier):
    def configure_optimizers(self) -> Any:
        assert self.trainer.estimated_stepping_batches == 18
        return super().configure_optimizers()


class StopsEpochs(Classifier):
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        return -1 if batch_idx == 2 + self.current_epoch else None


class TakesItsOwnBatches(Classifier):
    def training_step(self, dataloader_iter: Any) -> Any:  # type: ignore[override]  # Lightning looks for this name
        batch, batch_idx, _ = next(dataloader_iter)
        return super().training_step(batch, batch_idx)


class Learns(Classifier):
    """Has the attribute that a learning-rate finder sets; its trials are not training."""

    def __init__(self) -> None:
        super().__init__()
        self.lr = 0.1

    def on_train_start(self) -> None:
        self.seen = []


# That workers start again in the next epoch, "workers", "reload, workers" and "in_order=False" show; each is a fork.
CASES: dict[str, dict[str, Any]] = {
    "shuffle": {},
    "in order": {"data": lambda: loader(shuffle=False)},
    "drop_last": {"data": lambda: loader(drop_last=True)},
    "single samples": {"data": lambda: loader(batch_size=1), "limit_train_batches": 3},
    "workers": {"data": lambda: loader(num_workers=2, prefetch_factor=4)},
    "persistent workers": {"data": lambda: loader(num_workers=2, persistent_workers=True), "limit_train_batches": 4},
    "workers that run already": {"data": running_workers},
    "weighted, with repeats": {"data": weighted},
    "draws when it begins": {"data": lambda: DataLoader(Augmented(), batch_sampler=DrawsAtOnce())},
    "own batch sampler": {"data": lambda: DataLoader(Augmented(), batch_sampler=CountedBatches())},
    "of unknown length": {"data": lambda: DataLoader(Augmented(), batch_sampler=RandomBatches())},
    "that reuses its list": {"data": lambda: DataLoader(Augmented(), batch_sampler=SameList())},
    "batches as a list": {"data": lambda: DataLoader(Augmented(), batch_sampler=[[3, 1], [2], [3, 0, 5]])},
    "no automatic batches": {"data": whole_batches},
    "__getitems__": {"data": lambda: loader(AtOnce())},
    "nested subsets": {"data": nested_subsets},
    "collate returns None": {"data": lambda: loader(collate_fn=without_label_two, batch_size=2)},
    "collate sorts": {"data": lambda: loader(collate_fn=by_brightness)},
    "collate sorts, in order": {"data": lambda: loader(collate_fn=by_brightness, shuffle=False)},
    "collate sorts in place": {"data": lambda: loader(collate_fn=sorted_in_place)},
    "collate sorts, one class": {"data": lambda: loader(OneClass(), collate_fn=by_brightness)},
    "collate sorts, workers": {"data": lambda: loader(collate_fn=by_brightness, num_workers=2), "max_epochs": 1},
    "collate sorts, spawned": {
        "data": lambda: loader(
            Noisy(images(), labels()), collate_fn=by_brightness, num_workers=1, persistent_workers=True,
            multiprocessing_context="spawn",
        ),
        # A forked worker draws the same numbers and starts in no time.
        "data without": lambda: loader(collate_fn=by_brightness, num_workers=1),
        "max_epochs": 1,
    },
    "collate sorts, in_order=False": {
        "data": lambda: loader(collate_fn=by_brightness, num_workers=1, in_order=False, persistent_workers=True),
    },
    "collate sorts, stateful": {"data": lambda: stateful(collate_fn=by_brightness)},
    "collate sorts, __getitems__": {"data": lambda: loader(AtOnce(), collate_fn=by_brightness)},
    "collate leaves out": {"data": lambda: loader(collate_fn=without_dark)},
    "collate makes lists": {"data": lambda: loader(Detections(), collate_fn=in_lists), "model": Detects},
    "collate sorts lists": {
        "data": lambda: loader(Detections(), collate_fn=lambda drawn: in_lists(sorted(drawn, key=brightness))),
        "model": Detects,
    },
    "collate makes lists of three": {
        "data": lambda: loader(Detections(), collate_fn=in_lists, batch_size=3), "model": Detects,
    },
    "negative positions": {"data": lambda: draws(lambda i: i - N)},
    "negative positions, stateful": {"data": lambda: stateful(sampler=Draws(lambda i: i - N), shuffle=False)},
    "positions with sizes": {"data": lambda: draws(lambda i: (i, 32), Sized())},
    "positions with two sizes": {
        "data": lambda: draws(lambda i: (i, (32, 48)), Sized(), num_workers=1), "max_epochs": 1,
    },
    "position first, whatever else repeats": {"data": lambda: draws(lambda i: (i, i % 3), Sized())},
    "positions in dicts": {"data": lambda: draws(lambda i: {"size": 32, "index": i}, Sized())},
    "in_order=False": {"data": lambda: loader(num_workers=1, in_order=False, worker_init_fn=knows_its_dataset)},
    "in_order=False, __getitems__": {
        "data": lambda: loader(AtOnce(), num_workers=1, in_order=False), "max_epochs": 1,
    },
    "in_order=False, no automatic batches": {
        "data": lambda: whole_batches(num_workers=1, in_order=False), "max_epochs": 1,
    },
    "stateful": {"data": stateful},
    "stateful dataset": {"data": lambda: stateful(Remembers())},
    "stateful, workers": {"data": lambda: stateful(Remembers(), num_workers=2, persistent_workers=True)},
    "stateful, in order": {"data": lambda: stateful(sampler=range(N), shuffle=False)},
    "limit_train_batches": {"limit_train_batches": 2},
    "accumulate": {"accumulate_grad_batches": 3},
    "overfit_batches": {"overfit_batches": 2, "data": lambda: loader(shuffle=False)},
    "validation in the epoch": {"val": lambda: loader(shuffle=False), "val_check_interval": 2},
    "max_steps": {"max_steps": 8, "max_epochs": -1},
    "reload": {"reload_dataloaders_every_n_epochs": 1, "data": Data},
    "reload, workers": {"reload_dataloaders_every_n_epochs": 1, "data": lambda: loader(num_workers=1)},
    "estimated_stepping_batches": {"model": AsksForSteps, "max_epochs": 3},
    "batch start returns -1": {"model": StopsEpochs},
    "dataloader_iter": {"model": TakesItsOwnBatches},
    "learning-rate finder": {
        "model": Learns, "callbacks": lambda: [LearningRateFinder(num_training_steps=14)], "enable_checkpointing": True,
    },
    "batch-size finder": {
        "model": Learns, "data": Data, "callbacks": lambda: [BatchSizeFinder(max_trials=1, steps_per_trial=2)],
        "enable_checkpointing": True,
    },
}  # fmt: skip


class Endless:
    """No DataLoader."""

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield images(4), None


class First(Classifier):
    """Classifies what the loader `a` gives; for the others, or where `a` is at its end, it keeps the logits small."""

    key: Any = "a"

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        rest = self(batch["b" if self.key == "a" else 0][0] / N).square().mean()
        return rest if batch[self.key] is None else rest + super().training_step(batch[self.key], batch_idx)


class Second(First):
    key = 1


def long() -> DataLoader[Any]:
    return loader(Augmented(34))


def several(mode: Any, first: Callable[[], Any] = loader, second: Callable[[], Any] = long) -> Any:
    return lambda: CombinedLoader({"b": second(), "a": first()}, mode)


def endless() -> DataLoader[Any]:
    return DataLoader(Augmented(), batch_sampler=RandomBatches())


CASES |= {
    f"several: {name}": {"model": First, "loader": "a"} | case
    for name, case in {
        "dict": {"data": lambda: {"b": long(), "a": loader()}},
        "min_size": {"data": several("min_size")},
        "max_size": {"data": several("max_size")},
        "max_size_cycle": {"data": several("max_size_cycle")},
        "max_size, unknown length": {"data": several("max_size", endless)},
        "max_size_cycle, unknown length": {"data": several("max_size_cycle", endless)},
        "max_size_cycle, with a limit": {"data": several("max_size_cycle", endless), "limit_train_batches": 8},
        "a collate returns None": {
            "data": several("min_size", lambda: loader(collate_fn=without_label_two, batch_size=2)),
        },
        "max_size_cycle, workers": {"data": several("max_size_cycle", lambda: loader(num_workers=1))},
        "max_size_cycle, stateful": {"data": several("max_size_cycle", stateful)},
        "another without an index": {"data": several("min_size", second=lambda: Endless())},
        "list": {"data": lambda: [long(), loader()], "model": Second, "loader": 1},
        "place as text": {"data": lambda: [long(), loader()], "model": Second, "loader": "1"},
    }.items()
}


def trained(folder: Path, *callbacks: Any, model: Callable[[], Classifier] = Classifier, **options: Any) -> Any:
    pl.seed_everything(3, verbose=False)
    given: dict[str, Any] = {"data": loader, "max_epochs": 2} | options
    return fit(folder, *callbacks, model=model(), **given)


def record_of(model: Classifier) -> TrainingDynamics:
    """The record of what the module's own steps saw."""
    expected = TrainingDynamics(N)
    for epoch in sorted({epoch for epoch, *_ in model.seen}):
        for seen, index, logits, y in model.seen:
            if seen == epoch:
                expected.update(index, logits, y)
        expected.end_epoch(epoch)
    return expected


def positions(model: Classifier, root_index: Any = None) -> Classifier:
    """Let the module's record hold positions in the loader's dataset."""
    if root_index is not None:
        place = {int(root): i for i, root in enumerate(root_index)}
        model.seen = [(epoch, [place[i] for i in index], *rest) for epoch, index, *rest in model.seen]  # type: ignore[misc]  # the rest are two
    return model


def assert_recorded(monitor: TrainingDynamicsMonitor, model: Classifier, folder: Path) -> None:
    assert model.seen
    assert_same(monitor.statistics(), record_of(model).compute())
    for epoch, history in load_record(folder).history():
        seen = [(index, logits, y) for e, index, logits, y in model.seen if e == epoch]
        assert history["index"].tolist() == [i for index, _, _ in seen for i in index]
        p = torch.cat([logits.softmax(1).gather(1, y.unsqueeze(1)).squeeze(1) for _, logits, y in seen])
        np.testing.assert_allclose(history["p_label"], p.numpy(), rtol=1e-5)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_record_is_that_of_the_modules_own_and_weights_stay_bit_identical(
    tmp_path: Path, case: dict[str, Any]
) -> None:
    others, name, data_without = case.get("callbacks", list), case.get("loader"), case.get("data without")
    case = {key: value for key, value in case.items() if key not in ("callbacks", "loader", "data without")}
    monitor = TrainingDynamicsMonitor(loader=name)
    watched = trained(tmp_path / "with", monitor, *others(), **case)
    generators = torch.get_rng_state()
    plain = trained(tmp_path / "without", *others(), **(case | ({"data": data_without} if data_without else {})))
    assert torch.equal(generators, torch.get_rng_state())
    for key, value in plain.state_dict().items():
        assert torch.equal(value, watched.state_dict()[key]), key
    assert_recorded(monitor, positions(watched, monitor.table()["root_index"]), tmp_path / "with")


def test_batches_that_overtake_each_other_are_told_apart(tmp_path: Path) -> None:
    monitor = TrainingDynamicsMonitor()
    model = fit(tmp_path, monitor, data=lambda: loader(Slow(), num_workers=2, in_order=False, shuffle=False))
    assert [i for _, index, _, _ in model.seen for i in index] != list(range(N)) * 3
    assert_recorded(monitor, model, tmp_path)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stateful_loader_resumes_in_the_middle_of_an_epoch(tmp_path: Path, workers: int) -> None:
    def data() -> Any:
        return stateful(Remembers(), num_workers=workers)

    def saver() -> ModelCheckpoint:
        return ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=4, save_top_k=-1)

    whole = fit(tmp_path / "a", TrainingDynamicsMonitor(), saver(), data=data, enable_checkpointing=True)
    monitor, rest = TrainingDynamicsMonitor(), Classifier()
    fit(tmp_path / "b", monitor, model=rest, data=data, ckpt_path=str(tmp_path / "step=8.ckpt"))
    assert [seen[:2] for seen in rest.seen] == [seen[:2] for seen in whole.seen[8:]]
    assert all(torch.equal(one[2], other[2]) for one, other in zip(rest.seen, whole.seen[8:], strict=True))
    rest.seen = [*whole.seen[:8], *rest.seen]
    assert_recorded(monitor, rest, tmp_path / "b")


def test_a_pass_gives_each_step_its_own_entry() -> None:
    first, second = Iteration(), Iteration()
    entries = [torch.tensor([i]) for i in range(6)]
    with pytest.raises(LookupError):
        first.take(0, num_ahead=0)
    first.delivered.extend(entries[:3])  # the first is of a step that never ended
    assert first.take(1, num_ahead=1) is first.take(1, num_ahead=1) is entries[1]
    with pytest.raises(LookupError):
        first.take(2, num_ahead=1)
    first.exhausted = True
    second.continues(first)
    second.delivered.append(entries[3])
    assert [second.take(step, num_ahead=3 - step) for step in (2, 3)] == entries[2:4]
    second.exhausted = True
    assert second.take(4, num_ahead=0) is None
    unused = Iteration()
    unused.delivered.append(entries[4])
    unused.exhausted = True
    second.continues(unused)
    assert not second.delivered
    assert not second.exhausted


def test_a_second_fit_and_a_loop_of_ones_own_over_the_loader_disturb_nothing(tmp_path: Path) -> None:
    class Looks(pl.Callback):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            list(trainer.train_dataloader)
            next(iter(trainer.train_dataloader))

    data, model = loader(), Classifier()
    runner = trainer(tmp_path, Looks(), monitor := TrainingDynamicsMonitor())
    runner.fit(model, data)
    runner.fit_loop.max_epochs = 5
    runner.fit(model, data)
    assert_recorded(monitor, model, tmp_path)
    assert type(data) is DataLoader


def test_monitors_of_several_loaders_share_one_recorder(tmp_path: Path) -> None:
    class Both(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch[0], batch_idx)

    zero, again = TrainingDynamicsMonitor(loader="0", name="0"), TrainingDynamicsMonitor(loader=0, name="1")
    one = TrainingDynamicsMonitor(
        loader=1, name="2", capture=lambda _, batch: (2 * torch.eye(K)[batch[1][1]], batch[1][1])
    )
    model = fit(tmp_path, zero, again, one, model=Both(), data=lambda: [loader(), loader(shuffle=False)])
    assert_recorded(zero, model, tmp_path / "dynalens" / "0")
    assert_recorded(again, model, tmp_path / "dynalens" / "1")
    history = dict(load_record(tmp_path / "dynalens" / "2").history())
    assert history[0]["index"].tolist() == list(range(N))


class TakesTwo(TakesItsOwnBatches):
    def training_step(self, dataloader_iter: Any) -> Any:  # type: ignore[override]  # Lightning looks for this name
        next(dataloader_iter)
        return super().training_step(dataloader_iter)


class Prefetches(DataLoader[Any]):
    def __iter__(self) -> Any:
        return reversed(list(super().__iter__()))


class Named(Augmented):
    """Samples that have other keys than their positions."""

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(0)


class CarriesIndex(Augmented):
    """Samples with keys of their own, each with its position."""

    def __init__(self, positions: dict[Any, int]) -> None:
        super().__init__()
        self.positions = positions

    def __getitem__(self, key: Any) -> Any:
        return *super().__getitem__(self.positions[key]), self.positions[key]


class OfTriples(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch[:2], batch_idx)


class Growing(Data):
    def train_dataloader(self) -> Any:
        assert self.trainer
        return loader(Augmented(N + self.trainer.current_epoch))


class Restructures(First):
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch["a"] if self.trainer.training else batch

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return Classifier.training_step(self, batch, batch_idx)


MISUSE: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "several": (
        {}, {"data": lambda: {"a": loader(), "b": loader()}},
        "`loader` to name one of the training loaders 'a', 'b', got None. Pass `loader='a'`",
    ),
    "nested": ({}, {"data": lambda: {"a": [loader(), loader()]}}, "training loaders 'a.0', 'a.1', got None"),
    "wrong name": ({"loader": "c"}, {"data": lambda: {"a": loader(), "b": loader()}}, "'a', 'b', got 'c'"),
    "no name": ({"loader": "a"}, {}, "`loader` to be None, as training has one loader without a name, got 'a'"),
    "own iteration": ({}, {"data": lambda: Prefetches(Augmented(), 4)}, "got Prefetches with an `__iter__` of its own"),
    "running workers": (
        {}, {"data": lambda: started(stateful(num_workers=1, persistent_workers=True))},
        "StatefulDataLoader to be made in `fit`, got one that was there before.*Make a new",
    ),
    "two batches a step": ({}, {"model": TakesTwo}, "one batch of its `dataloader_iter`, got 2 batches in 1 steps"),
    "keys": ({}, {"data": lambda: loader(Named(), sampler=["a"], shuffle=False)}, r"draw integers.*got a\."),
    "keys and workers": (
        {}, {"data": lambda: stateful(Named(), sampler=["a"], shuffle=False, num_workers=1)}, r"draw integers.*got a\.",
    ),
    "bounds": (
        {}, {"data": lambda: loader(Named(), sampler=[{"bounds": 0.5}], shuffle=False)},
        "draw integers.*got {'bounds'.*pass `index=`",
    ),
    "position second": (
        {}, {"data": lambda: loader(BySize(), sampler=[(i % 2, i) for i in range(N)], shuffle=False)},
        r"whose first integer is the position.*got \[\(0, 0\), \(1, 1\), \(0, 2\)\].*Draw the position first",
    ),
    "position second, indexed": (
        {}, {"data": lambda: loader(IndexedDataset(BySize()), sampler=[(i % 2, i) for i in range(N)], shuffle=False),
             "model": OfTriples},
        r"whose first integer is the position.*got \[\(0, 0\), \(1, 1\), \(0, 2\)\].*carry its own index",
    ),
    "no integers": (
        {}, {"data": lambda: loader(Named(), sampler=[2**70], shuffle=False)}, "draw positions.*OverflowError.*pass",
    ),
    "growing": (
        {}, {"data": Growing, "reload_dataloaders_every_n_epochs": 1}, "the record, 22 samples, got one of 23. Resume",
    ),
    "restructured": (
        {"loader": "a", "index": "i"}, {"data": several("min_size"), "model": Restructures},
        "hold the part of the loader 'a', got a list",
    ),
}  # fmt: skip


def started(data: Any) -> Any:
    next(iter(data))
    return data


@pytest.mark.parametrize(("arguments", "options", "message"), MISUSE.values(), ids=MISUSE.keys())
def test_loaders_that_cannot_be_followed_raise_one_clear_error(
    tmp_path: Path, arguments: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(SampleIdentityError, match=message):
        trained(tmp_path, TrainingDynamicsMonitor(**arguments), **options)


@pytest.mark.parametrize("form", [str, lambda i: (i % 2, i), lambda i: ((i, 3), 2)])
def test_samples_that_carry_their_index_are_recorded_whatever_the_sampler_draws(
    tmp_path: Path, form: Callable[[int], Any]
) -> None:
    data = CarriesIndex({form(i): i for i in range(N)})
    monitor = TrainingDynamicsMonitor(history=False, index=2)
    model = trained(
        tmp_path, monitor, model=OfTriples, data=lambda: loader(data, sampler=list(data.positions)[::-1], shuffle=False)
    )
    assert_same(monitor.statistics(), record_of(model).compute())


def test_a_loader_that_cannot_be_followed_was_not_followed_from_the_start(tmp_path: Path) -> None:
    class Late(pl.Callback):
        """Attaches a monitor when the iterators exist already."""

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            monitor = TrainingDynamicsMonitor()
            monitor.setup(trainer, pl_module, "fit")
            monitor.on_train_start(trainer, pl_module)
            trainer.callbacks.append(monitor)

    with pytest.raises(SampleIdentityError, match="DataLoader to be made in `fit`, got one that was there before"):
        fit(tmp_path, Late())
