"""Random combinations of what a training may be made of: the record is exact, or the first batch says why not."""

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    RandomSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)

from dynalens import CaptureError, IndexedDataset, SampleIdentityError, TrainingDynamicsMonitor
from test_losses import assert_equals_the_definitions
from training import Classifier, N, fit, images, labels

pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata calls it
COUNT = int(os.environ.get("DYNALENS_TEST_COMBINATIONS", "60"))
"""Every combination is drawn from its number, so that more of them contain those of fewer."""


class Items(Dataset[Any]):
    """A dataset of the user's own, whose samples have some form."""

    def __init__(self, form: Callable[[Tensor, int], Any], *, shown: bool) -> None:
        self.form, self.images, self.labels = form, images(), labels().tolist()
        if shown:
            self.targets = list(self.labels)

    def __len__(self) -> int:
        return N

    def __getitem__(self, key: Any) -> Any:
        i = key["index"] if isinstance(key, dict) else key[0] if isinstance(key, tuple) else key
        return self.form(self.images[i], self.labels[i])


class Drawn(RandomSampler):
    """Draws positions in a form of its own."""

    def __init__(self, form: Callable[[int], Any]) -> None:
        super().__init__(range(N))
        self.form = form

    def __iter__(self) -> Iterator[Any]:
        return map(self.form, super().__iter__())


def pair(x: Tensor, y: int) -> Any:
    return x, y


def as_dict(x: Tensor, y: int) -> Any:
    return {"x": x, "y": y}


def parts_of(sample: Any) -> tuple[Any, Any]:
    return (sample["x"], sample["y"]) if isinstance(sample, dict) else (sample[0], sample[1])


def brightness(sample: Any) -> float:
    return float(parts_of(sample)[0][0, 1:].sum())


def by_brightness(samples: list[Any]) -> Any:
    return default_collate(sorted(samples, key=brightness))


def in_place(samples: list[Any]) -> Any:
    samples.sort(key=brightness)
    return default_collate(samples)


def without_dark(samples: list[Any]) -> Any:
    return default_collate([sample for sample in samples if brightness(sample) > 0] or samples[:1])


def scaled(samples: list[Any]) -> Any:
    """Inputs that are no sample's numbers, but for the first pixel, which tells the module the index."""
    batch = default_collate(samples)
    parts_of(batch)[0][:, :, 1:] *= 0.5
    return batch


def scaled_by_brightness(samples: list[Any]) -> Any:
    return scaled(sorted(samples, key=brightness))


def reverse(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return x.flip(0), y.flip(0)


def above_zero(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    keep = y > 0
    return (x[keep], y[keep]) if bool(keep.any()) else (x, y)


def untraced(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return x, torch.tensor(y.tolist(), device=y.device)


def through_lists(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    order = list(range(len(y)))[::-1]
    return x[order], torch.tensor([int(y[i]) for i in order], device=y.device)


def same(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return x, y


def own_log_loss(z: Tensor, y: Tensor) -> Tensor:
    return F.nll_loss(z.log_softmax(1), y)


LOSSES: list[Callable[[Tensor, Tensor], Tensor]] = [
    F.cross_entropy,
    own_log_loss,
    torch.nn.CrossEntropyLoss(label_smoothing=0.1),
]


class Combination(NamedTuple):
    """One of each."""

    dataset: str
    sampler: str
    collate: Any
    workers: int
    loss: Callable[[Tensor, Tensor], Tensor]
    step: Any
    hook: Any
    returns: bool
    options: dict[str, Any]


def drawn(number: int) -> Combination:
    """Draw the combination of this number."""
    draw = random.Random(number)
    case = Combination(
        dataset=draw.choice(["pairs", "dicts", "shown", "tensors", "subset", "parts", "indexed", "int32"]),
        sampler=draw.choice(["order", "shuffle", "weighted", "batches", "negative", "sized", "dicts", "stateful"]),
        collate=draw.choice([None, None, by_brightness, in_place, without_dark, scaled, scaled_by_brightness]),
        workers=draw.choice([0] * 9 + [1]),
        loss=draw.choice(LOSSES),
        step=draw.choice([same, same, reverse, above_zero, untraced, through_lists]),
        hook=draw.choice([same, same, same, reverse, above_zero]),
        returns=draw.random() < 0.2,
        options=draw.choice(
            [{}, {"precision": "bf16-mixed"}, {"accumulate_grad_batches": 2}, {"limit_train_batches": 2}]
        ),
    )
    if case.step is through_lists:  # few rows of two classes in turn are, in the reverse order, other names of these
        case = case._replace(hook=same, sampler="shuffle")
    # In bfloat16 the inputs of nll_loss are rounded once more than the logits that the module remembers.
    return case._replace(options={}) if case.loss is own_log_loss and "precision" in case.options else case


def dataset_of(case: Combination) -> Any:
    data: Any = Items(as_dict if case.dataset == "dicts" else pair, shown=case.dataset == "shown")
    if case.sampler not in ("sized", "dicts"):  # which torch's own datasets do not take
        if case.dataset in ("tensors", "int32"):
            return TensorDataset(images(), labels().int() if case.dataset == "int32" else labels())
        if case.dataset == "subset":
            return Subset(Subset(data, range(N)), list(range(N)))
        if case.dataset == "parts":
            return ConcatDataset([Subset(data, range(9)), Subset(data, range(9, N))])
    return IndexedDataset(data) if case.dataset == "indexed" else data


def data_of(case: Combination) -> DataLoader[Any]:
    data = dataset_of(case)
    options: dict[str, Any] = {"collate_fn": case.collate, "num_workers": case.workers, "batch_size": 8}
    forms: dict[str, Callable[[int], Any]] = {
        "negative": lambda i: i - N, "sized": lambda i: (i, 32), "dicts": lambda i: {"size": 1, "index": i},
    }  # fmt: skip
    if case.sampler in forms:
        return DataLoader(data, sampler=Drawn(forms[case.sampler]), **options)
    if case.sampler == "weighted":
        return DataLoader(data, sampler=WeightedRandomSampler([i + 1.0 for i in range(N)], N), **options)
    if case.sampler == "batches":
        del options["batch_size"]
        return DataLoader(data, batch_sampler=BatchSampler(RandomSampler(data), 5, False), **options)
    loader: Any = DataLoader
    if case.sampler == "stateful":
        loader = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader
    made: DataLoader[Any] = loader(data, shuffle=case.sampler != "order", **options)
    return made


class Combined(Classifier):
    def __init__(self, case: Combination) -> None:
        super().__init__()
        self.case = case

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        if isinstance(batch, dict):
            x, y = self.case.hook(batch["x"], batch["y"])
            return {"x": x, "y": y}
        if len(batch) == 3 and self.case.hook is not same:  # the index goes with the others
            rows = self.case.hook(torch.arange(len(batch[1])), batch[1])[0]
            return [part[rows] for part in batch]
        return [*self.case.hook(batch[0], batch[1]), *batch[2:]]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = self.case.step(*parts_of(batch))
        logits, y = self(x / N), y.long()
        self.remember(x, logits.float() if self.case.loss is not F.cross_entropy else logits, y)
        loss = self.case.loss(logits, y)
        return {"loss": loss, "logits": logits, "targets": y} if self.case.returns else loss


def trained(folder: Path, number: int, *monitors: Any) -> Any:
    torch.manual_seed(number)
    return fit(folder, *monitors, model=Combined(drawn(number)), data=lambda: data_of(drawn(number)), max_epochs=2,
               **drawn(number).options)  # fmt: skip


@pytest.mark.parametrize("number", range(COUNT))
def test_a_random_combination_gives_the_exact_record_or_one_error_in_the_first_batch(
    tmp_path: Path, number: int
) -> None:
    monitor, case = TrainingDynamicsMonitor(history=False), drawn(number)
    try:
        module = trained(tmp_path / "with", number, monitor)
    except (SampleIdentityError, CaptureError):
        if may_raise(case):
            return
        raise
    assert_equals_the_definitions(monitor.statistics(), module.seen)
    plain = trained(tmp_path / "without", number)
    for key, value in plain.state_dict().items():
        assert torch.equal(value, module.state_dict()[key]), key


def may_raise(case: Combination) -> bool:
    """Whether rows are in an order that nothing can tell: only then is an error right."""
    return case.step is through_lists or (case.collate is scaled_by_brightness and case.dataset != "indexed")
