"""Targets that a step draws, as pretext tasks do, are told from labels of samples before the first epoch ends."""

import collections
import itertools
import logging
import multiprocessing
import random
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset, WeightedRandomSampler

from dynalens import CaptureError, SampleIdentityError, TrainingDynamicsMonitor
from dynalens.identity import steps
from dynalens.identity.collate_order import NOTED_BATCHES
from dynalens.identity.drawn_targets import are_unrelated
from training import Classifier, K, fit, fit_undisturbed, images, loader

COUNT = 120
"""More samples than the first hundred targets."""


def of_many(y: Tensor | None = None) -> DataLoader[Any]:
    drawn = torch.randint(0, K, (COUNT,), generator=torch.Generator().manual_seed(5))
    return loader(TensorDataset(images(COUNT), drawn if y is None else y), batch_size=30)


class Targets(Classifier):
    """Makes its targets itself, of the images and labels of a batch."""

    def __init__(self, targets: Callable[[Tensor, Any], Tensor]) -> None:
        super().__init__()
        self.targets = targets

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        targets, logits = self.targets(x, y), self(x / COUNT)
        self.remember(x, logits, targets)
        return self.loss(logits, targets)


class OneBatchLate(Classifier):
    """Trains on the batch before. In the first step there is none."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[Any] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.batches.append([part.clone() for part in batch])
        return None if len(self.batches) < 2 else super().training_step(self.batches[-2], batch_idx)


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_a_step_that_trains_one_batch_late_is_an_error_in_the_first_steps(tmp_path: Path) -> None:
    model = OneBatchLate()
    with pytest.raises(SampleIdentityError, match="Expected the step to train on the batch that it was given"):
        fit(tmp_path, TrainingDynamicsMonitor(), model=model, data=of_many, limit_train_batches=3, max_epochs=1)


DRAWS: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "python": lambda x, y: torch.tensor([min(random.randrange(6), K - 1) for _ in x]),
    "numpy": lambda x, y: torch.from_numpy(np.random.randint(0, K, len(x))),
    "numpy's choice": lambda x, y: torch.as_tensor(np.random.choice(K, len(x), p=[0.5, 0.25, 0.25])),
}
MADE: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "in place": lambda x, y: torch.empty(len(x), dtype=torch.long).random_(0, K),
    "by weights": lambda x, y: torch.multinomial(torch.ones(K), len(x), replacement=True),
    "uniform": lambda x, y: torch.zeros(len(x)).uniform_(0, K).long(),
}


@pytest.mark.parametrize("targets", DRAWS.values(), ids=DRAWS.keys())
def test_targets_that_a_step_draws_outside_torch_raise_after_a_hundred(tmp_path: Path, targets: Any) -> None:
    module = Targets(targets)
    with pytest.raises(CaptureError, match=r"nothing to do with the labels of the batch.*`capture="):
        fit(tmp_path, TrainingDynamicsMonitor(), model=module, data=of_many)
    assert len(module.seen) == 4  # of 30 samples


@pytest.mark.parametrize("targets", MADE.values(), ids=MADE.keys())
def test_targets_that_a_step_draws_by_torch_raise_in_the_first_batch(tmp_path: Path, targets: Any) -> None:
    module = Targets(targets)
    with pytest.raises(CaptureError, match="numbers that the step itself makes"):
        fit(tmp_path, TrainingDynamicsMonitor(), model=module, data=of_many)
    assert len(module.seen) == 1


def jittered(function: Callable[[Tensor, Any], Tensor]) -> Callable[[Tensor, Any], Tensor]:
    """Draw numbers, as for an augmentation, before the targets are made."""

    def targets(x: Tensor, y: Any) -> Tensor:
        random.random(), np.random.rand(len(x))
        return function(x, y)

    return targets


def assert_recorded(monitor: TrainingDynamicsMonitor, module: Classifier) -> None:
    """Compare with the mean of the margins that the module remembers of each sample."""
    margins: list[list[float]] = [[] for _ in range(COUNT)]
    for _, index, logits, targets in module.seen:
        for i, z, k in zip(index, logits.tolist(), targets.tolist(), strict=True):
            margins[i].append(z[k] - max(z[:k] + z[k + 1 :]))
    expected = [sum(values) / len(values) for values in margins]
    np.testing.assert_allclose(monitor.statistics().margin, expected, rtol=1e-5, atol=1e-6)


CLASS_OF = {0: 2, 1: 0, 2: 1}
LABELS: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "the labels": jittered(lambda x, y: y.clone()),
    "a table": jittered(lambda x, y: torch.tensor([CLASS_OF[int(k)] for k in y])),
    "by torch from images": jittered(lambda x, y: x[:, 0, 0, 0].long() % K),
    "by numpy from images, nothing drawn": lambda x, y: torch.from_numpy(x[:, 0, 0, 0].numpy().astype(int) % K),
}


@pytest.mark.parametrize("targets", LABELS.values(), ids=LABELS.keys())
def test_labels_of_samples_beside_other_random_numbers_are_recorded(tmp_path: Path, targets: Any) -> None:
    monitor = TrainingDynamicsMonitor(history=False)
    module = fit(tmp_path, monitor, model=Targets(targets), data=of_many, max_epochs=2)
    assert_recorded(monitor, module)


class Named(Dataset[Any]):
    """Samples with a name, and a label that is not what is trained on."""

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, i: int) -> Any:
        return {"x": images(COUNT)[i], "label": i // 7 % 2, "name": f"{i}.png"}


def test_labels_that_are_looked_up_by_name_are_recorded(tmp_path: Path) -> None:
    class LooksUp(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            random.random()
            y = torch.tensor([int(name.removesuffix(".png")) % K for name in batch["name"]])
            return super().training_step((batch["x"], y), batch_idx)

    monitor = TrainingDynamicsMonitor(history=False)
    data = lambda: loader(Named(), batch_size=30)
    module = fit(tmp_path, monitor, model=LooksUp(), data=data, max_epochs=2)
    assert_recorded(monitor, module)


OWN = random.Random(4)
DRAW: dict[str, Callable[[], int]] = {
    "python": lambda: random.randrange(K),
    "numpy": lambda: int(np.random.randint(K)),
    "torch": lambda: int(torch.randint(K, ())),
    "a generator of its own": lambda: OWN.randrange(K),
}


class Labelled(Dataset[Any]):
    """Shows a label for each sample, and returns another target."""

    def __init__(self, target: Callable[[int], int], *, shown: bool = True) -> None:
        self.target, self.own = target, random.Random(2)
        self.last, self.times, self.counts = -1, dict.fromkeys(range(COUNT), 0), np.zeros(COUNT)
        if shown:
            self.targets = [i * 5 // 3 % 3 for i in range(COUNT)]

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, i: int) -> Any:
        x = images(COUNT)[i]
        x[0, 1:] += self.own.random() + random.random() + torch.rand(5, 6) * np.random.rand()
        x[0, 1:] += (self.last == i) + self.times[i] / 10 + self.counts[i] / 10  # as caches and curricula count
        self.last = i
        self.times[i] += 1
        self.counts[i] += 1
        return x, self.target(i)


class Pretext:
    """A collate function that turns images and forgets their labels."""

    def __init__(self, draw: Callable[[], int]) -> None:
        self.draw = draw

    def __call__(self, samples: list[Any]) -> Any:
        turns = [self.draw() for _ in samples]
        x = torch.stack([x for x, _ in samples])
        x[:, 0, 1:] = torch.stack([x[i, 0, 1:].roll(k + 1, dims=0) for i, k in enumerate(turns)])
        return x, torch.tensor(turns)


def without_a_label(i: int) -> int:
    return 0


def label(i: int) -> int:
    return i * 5 // 3 % 3


DRAWN_BEFORE: dict[str, Callable[[Callable[[], int]], Any]] = {
    "the dataset": lambda draw: loader(Labelled(lambda i: draw()), batch_size=12),
    "collate, labels shown": lambda draw: loader(Labelled(without_a_label), batch_size=30, collate_fn=Pretext(draw)),
    "collate, labels returned": lambda draw: loader(
        Labelled(label, shown=False), batch_size=15, collate_fn=Pretext(draw)
    ),
}


@pytest.mark.parametrize("draw", DRAW.values(), ids=DRAW.keys())
@pytest.mark.parametrize("data", DRAWN_BEFORE.values(), ids=DRAWN_BEFORE.keys())
def test_targets_that_are_drawn_before_the_step_raise_after_a_hundred(
    tmp_path: Path, data: Callable[[Any], Any], draw: Any
) -> None:
    module = Classifier()
    with pytest.raises(CaptureError, match=r"other ones where the same samples are read again.*`capture="):
        fit(tmp_path, TrainingDynamicsMonitor(), model=module, data=lambda: data(draw))
    assert {epoch for epoch, *_ in module.seen} == {0}
    assert sum(len(index) for _, index, *_ in module.seen) <= COUNT


class OneHot(Pretext):
    def __call__(self, samples: list[Any]) -> Any:
        x, turns = super().__call__(samples)
        return x, torch.eye(K)[turns]


@pytest.mark.parametrize("hook", ["on_before_batch_transfer", "on_after_batch_transfer"])
@pytest.mark.parametrize("draw", list(DRAW.values())[:3], ids=list(DRAW)[:3])
def test_targets_that_a_hook_draws_raise_after_a_hundred(tmp_path: Path, draw: Any, hook: str) -> None:
    module: Any = Classifier()
    setattr(module, hook, lambda batch, dataloader_idx: [batch[0], torch.tensor([draw() for _ in batch[1]])])
    with pytest.raises(CaptureError, match="nothing to do with the labels of the batch"):
        fit(tmp_path, TrainingDynamicsMonitor(), model=module, data=lambda: of_many(torch.arange(COUNT) // 5 % 2))
    assert len(module.seen) == 4


def test_one_hot_targets_that_are_drawn_raise_after_a_hundred(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="other ones where the same samples are read again"):
        fit(
            tmp_path, TrainingDynamicsMonitor(),
            data=lambda: loader(Labelled(without_a_label), batch_size=30, collate_fn=OneHot(DRAW["numpy"])),
        )  # fmt: skip


def test_several_targets_of_a_sample_in_one_step_raise_in_the_first_batch(tmp_path: Path) -> None:
    class EachTurn(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x, y = batch
            two = torch.cat([y, y]) + torch.arange(2 * len(y)) // len(y)  # follows from rows, but is another number
            logits = self(torch.cat([x, x]) / COUNT)
            return {"loss": F.cross_entropy(logits, two % K), "logits": logits, "targets": two % K}

    with pytest.raises(SampleIdentityError, match="Expected each sample to have one target in a step, got 30 of 30"):
        fit(tmp_path, TrainingDynamicsMonitor(views=2), model=EachTurn(), data=of_many)
    repeated = WeightedRandomSampler([1.0, 1.0] + [0.0] * (COUNT - 2), COUNT)
    data = lambda: loader(Labelled(lambda i: OWN.randrange(K), shown=False), sampler=repeated, shuffle=None)
    with pytest.raises(
        SampleIdentityError, match=r"Expected each sample to have one target in a step, got [12] of [12]"
    ):
        fit(tmp_path, TrainingDynamicsMonitor(), data=data)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_targets_that_workers_draw_raise_after_a_hundred(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="other ones where the same samples are read again"):
        fit(
            tmp_path, TrainingDynamicsMonitor(),
            data=lambda: loader(
                Labelled(label, shown=False), batch_size=20, collate_fn=Pretext(DRAW["torch"]), num_workers=2
            ),
        )  # fmt: skip


def fixed(i: int) -> int:
    """A random label that stays, as in trainings that learn random labels by heart."""
    return random.Random(i).randrange(K)


def test_random_labels_that_stay_are_recorded_and_a_second_reading_disturbs_nothing(tmp_path: Path) -> None:
    monitor = TrainingDynamicsMonitor(history=False)
    data = lambda: loader(Labelled(fixed), batch_size=30)
    module = fit_undisturbed(tmp_path, monitor, Classifier, data=data, max_epochs=2)
    assert_recorded(monitor, module)


@pytest.mark.filterwarnings("ignore:Expected a folder without a record")
def test_only_samples_whose_targets_have_nothing_to_do_with_their_labels_are_read_again(tmp_path: Path) -> None:
    reads = multiprocessing.get_context("fork").Value("i")  # forked processes share it

    def counted(function: Callable[[int], int]) -> Callable[[int], int]:
        def target(i: int) -> int:
            reads.value += 1
            return function(i)

        return target

    for function, number in ((label, 0), (lambda i: 2 - label(i), 0), (fixed, 2 * 30)):
        reads.value = 0
        data = lambda function=function: loader(Labelled(counted(function)), batch_size=30)
        fit(tmp_path, TrainingDynamicsMonitor(history=False), data=data, max_epochs=1)
        assert reads.value == COUNT + number


class Stateful(Labelled):
    """Random labels that stay, and images that follow from all kinds of what reading a sample changes."""

    draws = random.Random(4)

    def __init__(self, folder: Path) -> None:
        super().__init__(fixed)
        Stateful.draws.seed(4)
        generator = torch.Generator().manual_seed(5)
        self.noise: Callable[[], Tensor] = lambda: torch.rand(1, generator=generator)
        self.numbers, self.count = itertools.cycle([0.1, 0.2, 0.5]), collections.defaultdict[int, int](int)
        (folder / "bytes").write_bytes(bytes(range(256)) * 100)
        self.file = (folder / "bytes").open("rb", buffering=0)
        self.sent, self.received = socket.socketpair()

    def __getitem__(self, i: int) -> Any:
        x, *others = super().__getitem__(i)
        self.count[i // 60] += 1
        if i % 10 == 0:
            self.sent.send(b".")
        change = self.draws.random() + self.noise() + next(self.numbers) + self.count[i // 60] + self.file.read(1)[0]
        return x + change / COUNT, *others


def test_a_second_reading_changes_no_state_that_samples_are_read_with(tmp_path: Path) -> None:
    datasets = []

    def data() -> DataLoader[Any]:
        datasets.append(Stateful(tmp_path))
        return loader(datasets[-1], batch_size=30)

    fit_undisturbed(tmp_path, TrainingDynamicsMonitor(history=False), Classifier, data=data, max_epochs=2)
    for dataset in datasets:
        dataset.file.close()
        dataset.sent.close()
        with dataset.received as received:
            assert len(received.recv(COUNT)) == 2 * COUNT // 10


def test_files_of_a_logger_stay_its_own_where_a_dataset_holds_it(tmp_path: Path) -> None:
    logger = logging.getLogger("of a dataset")
    handler = logging.FileHandler(tmp_path / "log")
    logger.addHandler(handler)
    dataset: Any = Labelled(fixed)
    dataset.logger = logger
    try:
        fit(tmp_path, TrainingDynamicsMonitor(history=False), data=lambda: loader(dataset, batch_size=30), max_epochs=1)
        assert logger.handlers == [handler]
    finally:
        logger.removeHandler(handler)
        handler.close()


def test_steps_of_few_samples_are_compared_only_as_long_as_labels_are_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Names(Labelled):
        def __getitem__(self, i: int) -> Any:
            return images(COUNT)[i], f"{i}.png", torch.eye(K)[fixed(i)]

    def collate(samples: list[Any]) -> Any:
        return torch.stack([x for x, *_ in samples]), torch.stack([y for *_, y in samples]).argmax(dim=1)

    compared: list[int] = []
    monkeypatch.setattr(steps, "check_one_target_each", lambda rows, targets: compared.append(len(rows)))
    data = lambda: loader(Names(fixed, shown=False), batch_size=3, collate_fn=collate)
    fit(tmp_path, TrainingDynamicsMonitor(history=False), data=data, max_epochs=1)
    assert len(compared) <= NOTED_BATCHES + 1 < COUNT // 3


def test_one_column_of_independent_numbers_is_unrelated_and_a_noisy_copy_is_not() -> None:
    draw = random.Random(1)
    label = [draw.randrange(4) for _ in range(200)]
    noisy = [draw.randrange(4) if draw.random() < 0.5 else value for value in label]
    assert not are_unrelated(label, noisy)
    assert not are_unrelated(list(range(200)), label)  # no label occurs twice
    assert not are_unrelated(label[:50], label[50:100])  # too few
    independent = [are_unrelated(label, [draw.randrange(4) for _ in label]) for _ in range(200)]
    assert sum(independent) >= 190


WORDS = ("ant", "bee", "cat")


class Words(Dataset[Any]):
    """Samples whose labels are words. The last row of an image has its length, by which a batch is sorted."""

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, i: int) -> Any:
        return images(COUNT)[i], WORDS[i * i % 11 % K], i * 7 % 13


def by_length(samples: list[Any]) -> Any:
    """Sort, and change the inputs: nothing but the words tells which sample a row is."""
    x, words, _ = zip(*sorted(samples, key=lambda sample: sample[2]), strict=True)
    inputs = torch.stack(x)
    inputs[:, :, 1:] += 1
    return inputs, torch.tensor([WORDS.index(word) for word in words])


def in_order_of_samples(samples: list[Any]) -> Any:
    return by_length([(x, word, 0) for x, word, _ in samples])


def test_labels_that_are_words_tell_that_a_collate_function_sorts(tmp_path: Path) -> None:
    module = Classifier()
    with pytest.raises(
        SampleIdentityError, match=r"as frequent as these labels, but in another order.*`IndexedDataset`"
    ):
        fit(
            tmp_path,
            TrainingDynamicsMonitor(),
            model=module,
            data=lambda: loader(Words(), collate_fn=by_length, batch_size=15),
        )
    assert len(module.seen) <= 4
    monitor = TrainingDynamicsMonitor(history=False)
    module = fit(
        tmp_path, monitor, max_epochs=1, data=lambda: loader(Words(), collate_fn=in_order_of_samples, batch_size=15)
    )
    assert_recorded(monitor, module)
