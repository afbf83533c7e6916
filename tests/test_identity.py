"""Whatever way tells which samples are in a batch, the record is the same, and a wrong pairing is noticed."""

import gc
import weakref
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from dynalens import IndexedDataset, SampleIdentityError, TrainingDynamicsMonitor, load_record
from dynalens.identity import SampleIdentity, SampleIds, indices_in_batch
from dynalens.identity.loaders import Iteration
from test_dynamics import assert_same
from training import Classifier, K, N, dataset, fit, images, labels, loader, trainer

pytestmark = pytest.mark.usefixtures("undrawn")


def name(i: int) -> str:
    return f"folder/übung {i:03d}.png"


class Carries(Dataset[Any]):
    """Its samples are dicts that hold an index or id, made by ``form``."""

    def __init__(self, form: Callable[[int], Any] = int) -> None:
        self.form = form

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"x": images()[i], "y": labels()[i], "id": self.form(i)}


class Stream(IterableDataset[Any]):
    """The samples of `Carries` in another order for each epoch, without a length."""

    def __init__(self, form: Callable[[int], Any] = int) -> None:
        self.samples, self.generator = Carries(form), torch.Generator().manual_seed(5)

    def __iter__(self) -> Iterator[Any]:
        return (self.samples[i] for i in torch.randperm(N, generator=self.generator).tolist())


class OfDicts(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step((batch["x"], batch["y"]), batch_idx)


class OfTriples(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch[:2], batch_idx)


def without_first(samples: list[Any]) -> Any:
    return torch.utils.data.default_collate(samples[1:] if len(samples) > 1 else samples)


def without_none(samples: list[Any]) -> Any:
    return torch.utils.data.default_collate([sample for sample in samples if sample is not None])


class Holes(Carries):
    def __getitem__(self, i: int) -> Any:
        return None if i % 5 == 0 else super().__getitem__(i)


def tripled(index: int) -> int:
    return 3 * index + 100


# name: (index argument, data, module, id of the sample that the module sees as i)
WAYS: dict[str, tuple[Any, Callable[[], Any], type[Classifier], Callable[[int], Any]]] = {
    "automatic": ("auto", lambda: loader(Carries()), OfDicts, int),
    "key": ("id", lambda: loader(Carries()), OfDicts, int),
    "callable": (lambda batch: batch["id"].tolist(), lambda: loader(Carries()), OfDicts, int),
    "strings": ("id", lambda: loader(Carries(name)), OfDicts, name),
    "array of strings": (lambda b: np.array(b["id"]), lambda: loader(Carries(name), num_workers=1), OfDicts, name),
    "iterable": ("id", lambda: DataLoader(Stream(), batch_size=4), OfDicts, int),
    "iterable, other integers": ("id", lambda: DataLoader(Stream(tripled), batch_size=4), OfDicts, tripled),
    "iterable, strings": ("id", lambda: DataLoader(Stream(name), batch_size=4), OfDicts, name),
    "IndexedDataset": ("auto", lambda: loader(IndexedDataset(dataset())), OfTriples, int),
    "IndexedDataset of dicts": ("auto", lambda: loader(IndexedDataset(Carries())), OfDicts, int),
    "IndexedDataset, samples left out": (
        "auto", lambda: loader(IndexedDataset(dataset()), collate_fn=without_first), OfTriples, int,
    ),
    "IndexedDataset, None": (
        "auto", lambda: loader(IndexedDataset(Holes()), collate_fn=without_none), OfDicts, int,
    ),
    "IndexedDataset in a subset": (
        IndexedDataset.indices, lambda: loader(Subset(IndexedDataset(dataset()), range(3, N, 2))), OfTriples, int,
    ),
}  # fmt: skip


def ids_by_the_module(model: Classifier, form: Callable[[int], Any]) -> dict[Any, list[tuple[float, int]]]:
    """Margin and label of every presentation of each sample."""
    found: dict[Any, list[tuple[float, int]]] = {}
    for _, index, logits, y in model.seen:
        for i, z, label in zip(index, logits.double(), y.tolist(), strict=True):
            others = torch.cat([z[:label], z[label + 1 :]])
            found.setdefault(form(i), []).append((float(z[label] - others.max()), label))
    return found


class Fitted(NamedTuple):
    """What a fit with a monitor left: its module, folder and announcements."""

    monitor: TrainingDynamicsMonitor
    module: Classifier
    folder: Path
    said: list[str]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Fitted]:
    """One fit for each way, which several tests read."""

    @cache
    def fit_in(way: str) -> Fitted:
        index, data, model, _ = WAYS[way]
        folder, said = tmp_path_factory.mktemp("way"), list[str]()
        pl.seed_everything(7, verbose=False)
        monitor, module = TrainingDynamicsMonitor(index=index), model()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("dynalens.callbacks.training_dynamics.announce", said.append)
            fit(folder, monitor, data=data, model=module, max_epochs=2)
        return Fitted(monitor, module, folder, said)

    return fit_in


@pytest.mark.parametrize("way", WAYS)
def test_every_source_of_ids_gives_the_same_table(fitted: Callable[[str], Fitted], way: str) -> None:
    form = WAYS[way][3]
    monitor, module, folder, _ = fitted(way)
    expected, table = ids_by_the_module(module, form), monitor.table()
    assert set(expected) <= set(table.index)
    assert len(table) in (len(expected), N)
    assert table.index.name == "sample_id"
    assert table["presentations"].to_dict() == {i: len(expected.get(i, [])) for i in table.index}
    for i, presentations in expected.items():
        assert table["label"][i] == presentations[0][1]
        assert table["margin"][i] == pytest.approx(np.mean([margin for margin, _ in presentations]), rel=1e-5, abs=1e-6)
    clean = monitor.clean_indices()
    assert clean == [i for i in table.index if not table["flagged"][i]]
    assert {type(i) for i in clean} == {type(form(0))}
    assert monitor.suspects()["rank"].is_monotonic_increasing
    record = load_record(folder)
    assert record.table().equals(table)
    stored = pd.read_csv(folder / "dynalens" / "samples.csv", index_col="sample_id")
    assert stored.index.tolist() == table.index.tolist()


@pytest.mark.parametrize("way", ["IndexedDataset", "IndexedDataset of dicts", "IndexedDataset in a subset"])
def test_labels_of_the_batch_are_told_from_the_index_that_the_dataset_adds(tmp_path: Path, way: str) -> None:
    index, data, model, form = WAYS[way]
    monitor, module = TrainingDynamicsMonitor(index=index, capture="module:net"), model()
    fit(tmp_path, monitor, data=data, model=module)
    table = monitor.table()
    for i, presentations in ids_by_the_module(module, form).items():
        assert table["label"][i] == presentations[0][1]
        assert table["margin"][i] == pytest.approx(np.mean([margin for margin, _ in presentations]), rel=1e-5, abs=1e-6)


def test_labels_are_looked_for_in_the_batch_of_the_recorded_loader(tmp_path: Path) -> None:
    class OfTwo(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch["a"], batch_idx)

    monitor, module = TrainingDynamicsMonitor(loader="a", capture="module:net"), OfTwo()
    fit(tmp_path, monitor, data=lambda: {"a": loader(dataset()), "b": loader(dataset())}, model=module)
    assert monitor.table()["presentations"].min() > 0
    assert monitor.table()["label"].tolist() == dataset().tensors[1].tolist()


@pytest.mark.parametrize("way", WAYS)
def test_weights_are_bit_identical_in_every_way(tmp_path: Path, fitted: Callable[[str], Fitted], way: str) -> None:
    _, data, model, _ = WAYS[way]
    watched = fitted(way).module.state_dict()
    pl.seed_everything(7, verbose=False)
    plain = fit(tmp_path, data=data, model=model(), max_epochs=2).state_dict()
    assert all(torch.equal(watched[key], plain[key]) for key in plain)


def test_the_root_index_is_missing_where_ids_do_not_tell_it(tmp_path: Path) -> None:
    roots = {}
    for way in ("strings", "iterable", "IndexedDataset in a subset"):
        index, data, model, _ = WAYS[way]
        monitor = TrainingDynamicsMonitor(index=index, name=way[:4])
        fit(tmp_path, monitor, data=data, model=model(), max_epochs=1)
        roots[way] = monitor.table()["root_index"]
    assert roots["strings"].isna().all()
    assert roots["iterable"].isna().all()
    assert sorted(roots["IndexedDataset in a subset"]) == list(range(3, N, 2))
    assert roots["IndexedDataset in a subset"].tolist() == roots["IndexedDataset in a subset"].index.tolist()


def test_a_resumed_fit_keeps_the_rows_of_the_ids(tmp_path: Path) -> None:
    def data() -> Any:
        return DataLoader(Stream(name), batch_size=4)

    saver = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=4, save_top_k=-1)
    first = fit(
        tmp_path / "a",
        TrainingDynamicsMonitor(index="id"),
        saver,
        model=OfDicts(),
        data=data,
        enable_checkpointing=True,
    )
    state = torch.load(tmp_path / "step=8.ckpt", weights_only=True)["callbacks"]
    kept = next(value["sample_ids"] for key, value in state.items() if "TrainingDynamics" in key)
    assert kept == [name(i) for _, index, _, _ in first.seen[:6] for i in index]
    monitor, second = TrainingDynamicsMonitor(index="id"), OfDicts()
    fit(tmp_path / "b", monitor, model=second, data=data, ckpt_path=str(tmp_path / "step=8.ckpt"))
    second.seen = [*first.seen[:8], *second.seen]
    expected = ids_by_the_module(second, name)
    assert monitor.table().index.tolist() == kept
    assert monitor.table()["presentations"].to_dict() == {i: len(seen) for i, seen in expected.items()}
    record = load_record(tmp_path / "b")
    assert record.sample_ids is not None
    assert record.sample_ids.tolist() == kept
    history = [record.sample_ids[epoch["index"]].tolist() for _, epoch in record.history()]
    seen = [[name(i) for e, index, _, _ in second.seen if e == epoch for i in index] for epoch in range(3)]
    assert history == seen


def test_ids_that_come_late_get_rows_of_their_own(tmp_path: Path) -> None:
    class Grows(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            self.epoch = getattr(self, "epoch", 0) + 1
            return (Carries(name)[i] for i in range(6 * self.epoch))

    monitor = TrainingDynamicsMonitor(index="id")
    fit(tmp_path, monitor, model=OfDicts(), data=lambda: DataLoader(Grows(), batch_size=4))
    table = monitor.table()
    assert table.index.tolist() == [name(i) for i in range(18)]
    assert table["presentations"].tolist() == [3] * 6 + [2] * 6 + [1] * 6


@pytest.mark.filterwarnings("ignore:Expected a folder without a record")
def test_a_pool_that_grows_between_fits_keeps_its_record_by_names_alone(tmp_path: Path) -> None:
    def grown(monitor: TrainingDynamicsMonitor) -> list[Any]:
        for size in (6, 12):
            pool = Subset(Carries(name), range(size))
            fit(tmp_path, monitor, model=OfDicts(), data=partial(DataLoader[Any], pool, batch_size=4), max_epochs=1)
        table = monitor.table()
        assert table.index.tolist() == [name(i) for i in range(12)]
        return table["presentations"].tolist()

    with pytest.raises(SampleIdentityError, match=r"6 samples, got one of 12\. .* return a name \(str\) with each"):
        grown(TrainingDynamicsMonitor())
    assert grown(TrainingDynamicsMonitor(index="id")) == [2] * 6 + [1] * 6


@pytest.mark.filterwarnings("ignore:Expected a folder without a record")
def test_folds_of_the_same_length_share_a_record_by_names_alone(tmp_path: Path) -> None:
    def fold(monitor: TrainingDynamicsMonitor, start: int) -> list[Any]:
        part = Subset(Carries(name), range(start, N, 2))
        data = partial(DataLoader[Any], part, batch_size=4)
        return list(fit(tmp_path, monitor, model=OfDicts(), data=data, max_epochs=1).seen)

    monitor = TrainingDynamicsMonitor()
    fold(monitor, 0)
    for _ in range(2):
        with pytest.raises(
            SampleIdentityError,
            match=r"other samples at 11 of 11 positions.* position 0, where sample 1 .* instead of sample 0",
        ):
            fold(monitor, 1)
    fold(monitor, 0)
    assert monitor.statistics().presentations.tolist() == [2] * 11
    monitor.reset()
    fold(monitor, 1)
    assert monitor.statistics().presentations.tolist() == [1] * 11

    by_name, margins = TrainingDynamicsMonitor(index="id"), dict[str, list[float]]()
    for _, index, logits, targets in [step for start in (0, 1, 0) for step in fold(by_name, start)]:
        for i, z, y in zip(index, logits.double(), targets.tolist(), strict=True):
            margins.setdefault(name(i), []).append(float(z[y] - max(z[k] for k in range(K) if k != y)))
    table = by_name.table()
    assert table["presentations"].to_dict() == {name(i): 2 - i % 2 for i in range(N)}
    assert table["margin"].to_dict() == pytest.approx({sample: np.mean(of) for sample, of in margins.items()}, abs=1e-5)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (("id", Carries(name)), ("auto", Carries(name)), "gives ids as those of the record, 'folder/.*got 'auto'"),
        (("id", Carries()), ("id", Carries(name)), "positions in the dataset, as in the record so far, got 'folder"),
        (("id", Carries(name)), ("id", Carries()), r"ids like those of the record, as 'folder.*, got \d+"),
        (("id", Carries()), ("id", Stream()), "dataset of the record, 22 samples, got one of unknown length"),
    ],
)
def test_a_record_keeps_its_kind_of_ids(tmp_path: Path, first: Any, second: Any, message: str) -> None:
    monitor = TrainingDynamicsMonitor(index=first[0])
    fit(tmp_path / "a", monitor, model=OfDicts(), data=lambda: DataLoader(first[1], 4), max_epochs=1)
    state = monitor.state_dict()
    other = TrainingDynamicsMonitor(index=second[0])
    other.load_state_dict(state)
    with pytest.raises(SampleIdentityError, match=message):
        fit(tmp_path / "b", other, model=OfDicts(), data=lambda: DataLoader(second[1], 4), max_epochs=1)
    other.reset()
    fit(tmp_path / "c", other, model=OfDicts(), data=lambda: DataLoader(second[1], 4), max_epochs=1)
    assert other.table()["presentations"].tolist() == [1] * N


def test_ids_are_refused_where_several_processes_train() -> None:
    identity = SampleIdentity("id")
    identity._by_position = False
    identity._find = lambda trainer, batch: ["a"]  # type: ignore[method-assign]  # no Trainer with two processes here
    with pytest.raises(SampleIdentityError, match="where several processes train, got ids"):
        identity.rows(SimpleNamespace(world_size=2), None)


class Redrawn(Carries):
    """Its labels are drawn anew for each request."""

    calls = 0

    def __getitem__(self, i: int) -> dict[str, Any]:
        self.calls += 1
        return super().__getitem__(i) | {"y": torch.tensor(self.calls // 2 % K)}


class RedrawnStream(Stream):
    def __init__(self, form: Callable[[int], Any] = int) -> None:
        super().__init__(form)
        self.samples = Redrawn(form)


@pytest.mark.parametrize(
    ("index", "data"),
    [
        ("auto", lambda: loader(Redrawn())),
        ("auto", lambda: loader(Redrawn(), num_workers=1, in_order=False, persistent_workers=True)),
        ("auto", lambda: loader(IndexedDataset(Redrawn()))),
        ("id", lambda: loader(Redrawn())),
        ("id", lambda: loader(Redrawn(name))),
        ("id", lambda: DataLoader(RedrawnStream(name), batch_size=4)),
    ],
    ids=["sampler", "tagged", "IndexedDataset", "key", "strings", "iterable"],
)
def test_labels_that_change_stop_training_in_every_way(tmp_path: Path, index: Any, data: Any) -> None:
    model = OfDicts()
    with pytest.raises(
        ValueError,
        match=r"stay the same, got \d+ samples whose label changed.*drawn anew, as noise is, leave",
    ):
        fit(tmp_path, TrainingDynamicsMonitor(index=index), model=model, data=data)
    assert model.seen[-1][0] == 1  # the epoch in which the second label was seen


@pytest.mark.parametrize(
    "data",
    [
        loader,
        lambda: loader(num_workers=1, in_order=False),
        lambda: loader(sampler=torch.utils.data.WeightedRandomSampler([1.0] * N, N), shuffle=False),
        lambda: DataLoader(dataset(), batch_sampler=[[0, 1], [2, 3], [4, 5]]),
    ],
    ids=["sampler", "tagged", "repeats", "list"],
)
def test_a_recorder_that_is_out_of_step_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: Any) -> None:
    """Each batch gets the indices of the one before it; the first those of the last one that was drawn."""
    take, late = Iteration.take, [torch.tensor([1, 3])]
    given: dict[int, Any] = {}

    def misaligned(self: Iteration, step: int, ahead: int) -> Any:
        if step not in given:
            late.append(take(self, step, ahead))  # type: ignore[arg-type]  # a batch each time
            given[step] = late[-2][torch.arange(len(late[-1])) % len(late[-2])]
        return given[step]

    monkeypatch.setattr(Iteration, "take", misaligned)
    # The labels of the dataset, earlier ones, or those of a batch in which a sample stands twice.
    noticed = r"got \d+ (samples whose label changed|(of \d+ )?samples with (another one|several)|of \d+ in the first)"
    with pytest.raises((ValueError, SampleIdentityError), match=noticed):
        fit(tmp_path, TrainingDynamicsMonitor(), data=data)


def test_the_loader_and_the_strategy_are_put_back_after_an_exception(tmp_path: Path) -> None:
    class Failing(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if batch_idx == 2:
                raise RuntimeError("stop here")
            return super().training_step(batch, batch_idx)

    for data in (loader(), loader(num_workers=1, in_order=False)):
        before = dict(vars(data))
        runner = trainer(tmp_path, TrainingDynamicsMonitor(), TrainingDynamicsMonitor(name="b"))
        with pytest.raises(RuntimeError, match="stop here"):
            runner.fit(Failing(), data)
        assert type(data) is DataLoader
        assert vars(data) == before
        assert "process_dataloader" not in vars(runner.strategy)


def test_a_loader_that_was_replaced_is_let_go(tmp_path: Path) -> None:
    known: list[weakref.ref[Any]] = []

    class Data(pl.LightningDataModule):
        def train_dataloader(self) -> Any:
            gc.collect()
            assert [reference() for reference in known[:-1]] == [None] * (len(known) - 1)
            known.append(weakref.ref(made := loader()))
            return made

    module = Classifier()
    module.validation_step = None  # type: ignore[method-assign, assignment]  # it has no validation data
    trainer(tmp_path, TrainingDynamicsMonitor(), reload_dataloaders_every_n_epochs=1, max_epochs=4).fit(module, Data())
    assert len(known) == 4


def test_ids_have_the_rows_in_which_they_came() -> None:
    ids = SampleIds([7])
    assert ids.rows(torch.tensor([3, 7, 3])).tolist() == [1, 0, 1]
    assert ids.rows([3, 9]).tolist() == [1, 2]
    assert ids.array(2).tolist() == [7, 3]
    with pytest.raises(SampleIdentityError, match=r"like those of the record, as 7, got 'a'\. Use one kind of id"):
        ids.rows(["a"])


@pytest.mark.parametrize(
    ("batch", "index", "expected"),
    [
        ({"x": torch.zeros(2, 1), "position": torch.tensor([4, 2], dtype=torch.int32)}, "position", [4, 2]),
        ((1, [7, 8]), lambda batch: batch[1], [7, 8]),
        ((1, np.array([7, 8], dtype=np.uint8)), lambda batch: batch[1], [7, 8]),
        ({"position": ("a", "b")}, "position", ["a", "b"]),
    ],
)
def test_a_batch_can_carry_its_indices(batch: Any, index: Any, expected: list[Any]) -> None:
    found = indices_in_batch(batch, index)
    assert list(found) == expected
    assert not isinstance(found, Tensor) or found.dtype == torch.int64


@pytest.mark.parametrize(
    ("batch", "index", "message"),
    [
        ({"x": 1}, "position", r"the key 'position', got the keys \['x'\]"),
        ([1, 2], "position", "the key 'position', got a list"),
        ({"position": torch.zeros(2)}, "position", "one integer or string for each sample"),
        ({"position": torch.zeros(2, 2).long()}, "position", "one integer or string for each sample"),
        ({"position": [1.5, 2]}, "position", r"for each sample, got \(2,\) of float64"),
        ({"position": torch.tensor([True])}, "position", "one integer or string for each sample, .*torch.bool"),
        ({"position": "abc"}, "position", "one integer or string for each sample"),
        ({"position": [b"abc"]}, "position", "one integer or string for each sample"),
    ],
)
def test_a_batch_without_indices_raises(batch: Any, index: str, message: str) -> None:
    with pytest.raises(SampleIdentityError, match=message):
        indices_in_batch(batch, index)


def test_the_way_ids_are_found_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fitted: Callable[[str], Fitted]
) -> None:
    said = [text for way in WAYS for text in fitted(way).said]
    monkeypatch.setattr("dynalens.callbacks.training_dynamics.announce", said.append)
    fit(tmp_path, TrainingDynamicsMonitor(), data=lambda: loader(num_workers=1, in_order=False), max_epochs=1)
    ways = [text.split("samples: identified by ")[1] for text in said]
    index, added = "the values of `index`", "the positions that IndexedDataset adds"
    sampler, loader_itself = "which the sampler drew", "which the loader passes on with the samples"
    positions = [f"their positions, {source}" for source in (sampler, loader_itself)]
    assert ways == [positions[0], *[index] * 7, *[added] * 4, index, positions[1]]


def test_two_ways_in_one_trainer_make_the_same_record(tmp_path: Path) -> None:
    automatic, explicit = TrainingDynamicsMonitor(name="a"), TrainingDynamicsMonitor(index="id", name="b")
    fit(tmp_path, automatic, explicit, model=OfDicts(), data=lambda: loader(Carries()))
    assert_same(automatic.statistics(), explicit.statistics())
    assert_same(load_record(tmp_path / "dynalens" / "a").statistics, explicit.statistics())


@pytest.mark.parametrize("index", [2, -1])
def test_ids_are_found_at_their_place_in_a_tuple(tmp_path: Path, index: int) -> None:
    x, y = dataset().tensors
    data: Any = [(x[i], y[i], name(i)) for i in range(N)]
    monitor, model = TrainingDynamicsMonitor(index=index), OfTriples()
    fit(tmp_path, monitor, model=model, data=partial(DataLoader[Any], data, batch_size=4))
    expected = {name(i): 0 for i in range(N)}
    for _, indices, _, _ in model.seen:
        for i in indices:
            expected[name(i)] += 1
    assert monitor.table()["presentations"].to_dict() == expected


@pytest.mark.parametrize("index", [3, -4, True, "id"])
def test_a_place_or_key_that_the_batch_lacks_is_an_error_in_the_first_batch(tmp_path: Path, index: Any) -> None:
    x, y = dataset().tensors
    data: Any = [(x[i], y[i], name(i)) for i in range(N)]
    advice = "got a list of 3 entries. Pass a key of the batch, the place of the entry in a list or tuple"
    with pytest.raises(SampleIdentityError, match=f"hold the key {index!r}, {advice}"):
        fit(tmp_path, TrainingDynamicsMonitor(index=index), model=OfTriples(), data=partial(DataLoader[Any], data))


@pytest.mark.filterwarnings("ignore:Expected a folder without a record")
def test_a_subset_that_grows_within_a_fit_is_refused_and_both_ways_that_the_error_names_work(tmp_path: Path) -> None:
    chosen = [0, 5, 2, 7]

    class Curriculum(pl.Callback):
        def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            if trainer.current_epoch:
                chosen[:] = range(12)

    def grown(data: Callable[[], Any], **arguments: Any) -> TrainingDynamicsMonitor:
        monitor = TrainingDynamicsMonitor(history=False, **arguments)
        fit(tmp_path, monitor, Curriculum(), model=OfTriples() if arguments else None, data=data, max_epochs=2)
        return monitor

    advice = r"with a sampler, or return a name \(str\).*its place in the batch as `index=`"
    with pytest.raises(SampleIdentityError, match=rf"keep its 4 samples during a fit, got 12.*{advice}"):
        grown(lambda: DataLoader(Subset(dataset(), chosen), batch_size=2))
    chosen[:] = [0, 5, 2, 7]
    presented = grown(lambda: DataLoader(dataset(), batch_size=2, sampler=chosen)).table()["presentations"]
    assert presented.sum() == 2 * 4  # as many batches as Lightning counted at first
    assert presented[0] == 2
    chosen[:] = [0, 5, 2, 7]
    named: Any = [(*dataset()[i], name(i)) for i in range(N)]
    monitor = grown(lambda: DataLoader(Subset(named, chosen), batch_size=2), index=2)
    presentations = monitor.table()["presentations"].to_dict()
    # As many batches as Lightning counted at first: samples 0, 5, 2 and 7, and then 0 to 3.
    assert presentations == {name(0): 2, name(5): 1, name(2): 2, name(7): 1, name(1): 1, name(3): 1}
