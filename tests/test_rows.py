"""Rows that a hook or a step reorders or leaves out are followed to their samples, or raise in the first batch."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import ConcatDataset, DataLoader, Dataset, StackDataset, Subset, TensorDataset, default_collate

from dynalens import CaptureError, IndexedDataset, RelabelledDataset, SampleIdentityError, TrainingDynamicsMonitor
from dynalens.capture import OrderCheck, Presentation
from dynalens.identity import SampleIdentity, StepRows
from dynalens.identity.dataset_labels import disagreements, given_labels
from dynalens.identity.labels import GIVEN, LabelCheck
from test_losses import assert_equals_the_definitions
from training import Classifier, K, N, dataset, fit, fit_undisturbed, images, labels, loader

pytestmark = pytest.mark.usefixtures("undrawn")


def permutation(y: Tensor) -> Tensor:
    """One that the generators have no part in."""
    return torch.arange(len(y) - 1, -1, -1)


class Ordered(Classifier):
    """Chooses or orders rows before the network sees them."""

    def __init__(self, rows: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.rows = rows

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(self.rows(*batch[:2]), batch_idx)


class Masked(Classifier):
    """Leaves rows out before the loss."""

    def __init__(self, keep: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.keep = keep

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch[:2]
        keep, logits = self.keep(y), self(x / N)
        self.remember(x[keep], logits[keep], y[keep])
        return F.cross_entropy(logits[keep], y[keep], reduction="sum")


class Hooked(Classifier):
    """Changes the batch after its transfer."""

    def __init__(self, change: Callable[[list[Any]], list[Any]]) -> None:
        super().__init__()
        self.change = change

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return self.change(batch)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch[:2], batch_idx)


class Renumbered(Classifier):
    """Trains on other numbers for the classes, in a tensor of its own."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        return super().training_step((x, torch.tensor([(int(label) + 1) % K for label in y])), batch_idx)


def sorted_labels(x: Tensor, y: Tensor) -> Any:
    y, order = y.sort()
    return x[order], y


def through_numpy(x: Tensor, y: Tensor) -> Any:
    order = permutation(y).numpy()
    return torch.from_numpy(x.numpy()[order]), torch.from_numpy(y.numpy()[order])


def looked_at(x: Tensor, y: Tensor) -> Any:
    """Indexed and flipped in ways that give no rows of the batch, but numbers, one row, or other axes."""
    one_hot = F.one_hot(y, K)
    _ = x[x > 0], one_hot[one_hot > 0], x[np.int64(0)], x[torch.tensor(0)], x.flip(0, 3), torch.msort(y)
    return x[:, :], y[...]


def sorted_rows(x: Tensor, y: Tensor) -> Any:
    order = y.argsort(descending=True, stable=True)
    return x[order], y[order]


def permuted(batch: list[Any]) -> list[Any]:
    order = permutation(batch[1])
    return [part[order] for part in batch]


def brightened(batch: list[Any]) -> list[Any]:
    """Inputs that cannot be compared; the index stays in the first pixel."""
    x = batch[0].clone()
    x[:, :, 1:] *= 1.5
    return [x, *batch[1:]]


class Observed(Masked):
    """Computes a loss of its own from the rows that it keeps."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        rows, logits = self.keep(y), self(x / N)
        self.remember(x[rows], logits[rows], y[rows])
        return -(logits[rows].log_softmax(1).gather(1, y[rows][:, None])).mean()


class Twice(Classifier):
    """Two views of each sample, in another order than the batch's."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        x, y = x.flip(0), y.flip(0)
        return super().training_step((torch.cat([x, x * 0.5 + x * 0.5]), torch.cat([y, y])), batch_idx)


class Heads(Classifier):
    """Three heads, whose logits of one sample stand side by side, as ensembles within a network return them."""

    def __init__(self, beside: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.beside, self.heads = beside, nn.ModuleList(nn.Linear(K, K) for _ in range(3))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        hidden = self(x / N)
        logits = torch.stack([head(hidden) for head in self.heads], dim=1)
        for view in logits.unbind(1):
            self.remember(x, view, y)
        return F.cross_entropy(logits.flatten(0, 1), self.beside(y))


class LooksAgain(Classifier):
    """Runs the network once more, on the rows in another order, with gradients or without."""

    def __init__(self, *, trained: bool = False) -> None:
        super().__init__()
        self.trained = trained

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        with torch.set_grad_enabled(self.trained):
            again = self(batch[0].flip(0) / N)
        return loss + 0 * again.sum()


class Padded(Classifier):
    """Fills the last batch with rows that the loss ignores."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        missing = 4 - len(y)
        logits = self(F.pad(x, (0,) * 7 + (missing,)) / N)
        self.remember(x, logits[: len(y)], y)
        return F.cross_entropy(logits, F.pad(y, (0, missing), value=-100))


class FromTheSecondEpoch(Classifier):
    """Trains on hard samples alone, in their order, once it has seen all."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        if self.current_epoch > 0 and batch_idx != 1:  # the first batch and later ones; one has all rows
            y, order = y.sort(descending=True)
            x, y = x[order][:3], y[:3]
        return super().training_step((x, y), batch_idx)


EXACT: dict[str, tuple[Callable[[], Classifier], Callable[[], Any]]] = {
    "permuted": (lambda: Ordered(lambda x, y: (x[permutation(y)], y[permutation(y)])), loader),
    "flipped": (lambda: Ordered(lambda x, y: (x.flip(0), y.flip(0))), loader),
    "rolled": (lambda: Ordered(lambda x, y: (x.roll(1, 0), y.roll(1))), loader),
    "rolled by a keyword": (lambda: Ordered(lambda x, y: (torch.roll(x, 1, dims=(0,)), y.roll(1, 0))), loader),
    "sorted": (lambda: Ordered(sorted_labels), loader),
    "chosen by index": (lambda: Ordered(lambda x, y: (x[y != 2], y[y != 2].int().long())), loader),
    "index_select": (lambda: Ordered(lambda x, y: (x[1:], y.index_select(0, torch.arange(1, len(y))))), loader),
    "masked": (lambda: Masked(lambda y: y > 0), loader),
    "kept for a loss of the module's own": (lambda: Observed(lambda y: y > 0), loader),
    "ordered for a loss of the module's own": (lambda: Observed(permutation), loader),
    "chosen from the second epoch on": (FromTheSecondEpoch, loader),
    "masked, with an index of its own": (lambda: Masked(lambda y: y > 0), lambda: loader(IndexedDataset(dataset()))),
    "masked, none of a batch left": (lambda: Masked(lambda y: y == 1), lambda: loader(batch_size=1)),
    "masked, labels of int32": (
        lambda: Ordered(lambda x, y: (x[y > 0], y.long()[y > 0])),
        lambda: loader(TensorDataset(images(), labels().int())),
    ),
    "class 0 alone, in a tensor of the step": (
        lambda: Ordered(lambda x, y: (x, y.long())),
        lambda: loader(TensorDataset(images(), torch.zeros(N, dtype=torch.int32))),
    ),
    "padded": (Padded, loader),
    "what names no rows": (lambda: Ordered(looked_at), loader),
    "renumbered": (Renumbered, loader),
    "hook that permutes": (lambda: Hooked(permuted), loader),
    "hook that leaves out": (lambda: Hooked(lambda b: [part[b[1] != 2] for part in b]), loader),
    "hook that changes inputs": (lambda: Hooked(brightened), loader),
    "hook that permutes the index too": (
        lambda: Hooked(lambda b: permuted(brightened(b))), lambda: loader(IndexedDataset(dataset())),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("model", "data"), EXACT.values(), ids=EXACT.keys())
def test_rows_are_followed_and_weights_stay_bit_identical(
    tmp_path: Path, model: Callable[[], Classifier], data: Callable[[], Any]
) -> None:
    monitor = TrainingDynamicsMonitor(history=False)
    torch.manual_seed(0)
    module = fit_undisturbed(tmp_path, monitor, model, data=data, max_epochs=2)
    assert_equals_the_definitions(monitor.statistics(), module.seen)


def test_two_views_are_followed_to_samples_in_another_order(tmp_path: Path) -> None:
    monitor = TrainingDynamicsMonitor(history=False, views=2)
    module = fit(tmp_path, monitor, model=Twice(), max_epochs=2)
    assert_equals_the_definitions(monitor.statistics(), module.seen)


@pytest.mark.parametrize(
    "beside", [lambda y: y.repeat_interleave(3), lambda y: y[:, None].expand(-1, 3).flatten()], ids=["repeat", "expand"]
)
def test_logits_of_heads_that_are_side_by_side_are_views(tmp_path: Path, beside: Callable[[Tensor], Tensor]) -> None:
    monitor = TrainingDynamicsMonitor(history=False, views=3)
    module = fit(tmp_path, monitor, model=Heads(beside), max_epochs=2)
    assert_equals_the_definitions(monitor.statistics(), module.seen)


def test_labels_that_are_side_by_side_do_not_fit_logits_that_are_one_view_after_another(tmp_path: Path) -> None:
    class Joined(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x, y = batch
            return F.cross_entropy(torch.cat([self(x / N), self(x / N + 1)]), y.repeat_interleave(2))

    with pytest.raises(RuntimeError, match="labels in another order"):
        fit(tmp_path, TrainingDynamicsMonitor(history=False, views=2), model=Joined(), max_epochs=1)


def test_views_of_one_sample_that_are_side_by_side_raise_in_the_first_batch(tmp_path: Path) -> None:
    beside = Ordered(lambda x, y: (x.repeat_interleave(2, dim=0), torch.tensor([int(c) for c in y for _ in (0, 1)])))
    monitor = TrainingDynamicsMonitor(history=False, views=2)
    with pytest.raises(SampleIdentityError, match=r"one view of all samples after another.*`torch\.cat"):
        fit(tmp_path, monitor, model=beside, data=of_eight, limit_train_batches=1, max_epochs=1)


@pytest.mark.parametrize("epoch", [0, 1])
def test_an_order_that_begins_later_and_is_not_followed_raises_at_the_epochs_end(tmp_path: Path, epoch: int) -> None:
    class Later(Ordered):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            reorders = self.current_epoch == epoch and batch_idx == 4
            return super().training_step(batch, batch_idx) if reorders else Classifier.training_step(self, batch, 0)

    unlabelled: Any = [dataset()[i] for i in range(N)]  # which shows no labels by itself
    module = Later(through_numpy)
    with pytest.raises(SampleIdentityError, match=r"as in the first steps, got \d other targets in this epoch"):
        fit(tmp_path, TrainingDynamicsMonitor(history=False), model=module, data=lambda: loader(unlabelled))
    assert {seen[0] for seen in module.seen} == set(range(epoch + 1))


def test_chosen_rows_stay_on_the_device_of_the_step() -> None:
    class Known(SampleIdentity):
        def delivered(self, trainer: Any, rows: Tensor) -> Any:
            return None

    rows = StepRows(Known())
    rows.begin(None)
    rows.may_trace = True
    for _ in range(3):  # of the first steps the labels are compared on the host
        y = labels(4)
        rows.start((images(4), y))
        rows.rows_of_targets(None, (images(4), y), torch.arange(4), Presentation(torch.zeros(4, K), y, "", y), 1)
    batch = (
        torch.empty(4, 2, device="meta"),
        torch.empty(4, dtype=torch.int64, device="meta"),
    )
    rows.begin_epoch()  # nothing can be read from this device
    rows.start(batch)
    order = torch.empty(2, dtype=torch.int64, device="meta")
    x, y = batch[0][order], batch[1][order]
    told = rows.rows_of_targets(None, batch, torch.arange(4), Presentation(x, y, "", y), 1)
    rows.close()
    assert (told.device.type, told.shape) == ("meta", (2,))


def test_two_monitors_follow_the_rows_of_one_step(tmp_path: Path) -> None:
    monitors = [TrainingDynamicsMonitor(history=False, name=name) for name in "ab"]
    module = fit(tmp_path, *monitors, model=Masked(lambda y: y > 0), max_epochs=2)
    for monitor in monitors:
        assert_equals_the_definitions(monitor.statistics(), module.seen)


@pytest.mark.filterwarnings("ignore:Expected a folder without a record")
def test_features_belong_to_the_rows_that_the_layer_saw(tmp_path: Path) -> None:
    flipped, plain = Ordered(lambda x, y: (x.flip(0), y.flip(0))), Ordered(lambda x, y: (x, y))
    models = (flipped, plain, Masked(lambda y: y > 0), LooksAgain(), LooksAgain(trained=True))
    values = []
    for model in models:
        model.load_state_dict(models[0].state_dict())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        model.configure_optimizers = partial(lambda kept: kept, optimizer)  # type: ignore[method-assign]
        monitor = TrainingDynamicsMonitor(features="net.2", history=False)
        fit(tmp_path, monitor, model=model, max_epochs=1)
        state = monitor.state_dict()["features"]
        values.append(next(value for value in state.values() if isinstance(value, Tensor) and value.ndim == 2))
    assert all(torch.equal(values[0], others) for others in values[1:])


def test_a_layer_is_asked_for_what_was_trained_on_not_for_a_later_look(tmp_path: Path) -> None:
    monitor, module = TrainingDynamicsMonitor(capture="module:net", history=False), LooksAgain()
    fit(tmp_path, monitor, model=module, max_epochs=2)
    assert_equals_the_definitions(monitor.statistics(), module.seen)


class Aside(Classifier):
    """Computes what no rows of the batch give, too, and lets its loss have a part of it where it is told so."""

    def __init__(self, *, both: bool) -> None:
        super().__init__()
        self.both = both

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        z = self(x / N)
        self.remember(x, z, y)
        other = self(torch.ones_like(x)).square().mean()
        return F.cross_entropy(z, y) + (other if self.both else other.detach())


def test_a_layer_that_runs_again_with_gradients_is_asked_for_what_the_loss_is_of(tmp_path: Path) -> None:
    monitor, module = TrainingDynamicsMonitor(capture="module:net", history=False), Aside(both=False)
    fit(tmp_path / "a", monitor, model=module, max_epochs=1)
    assert_equals_the_definitions(monitor.statistics(), module.seen)
    with pytest.raises(CaptureError, match="a layer that is called once to compute the loss, got 2 calls of net"):
        fit(tmp_path / "b", TrainingDynamicsMonitor(capture="module:net"), model=Aside(both=True))
    advised, module = TrainingDynamicsMonitor(history=False), Aside(both=True)
    fit(tmp_path / "c", advised, model=module, max_epochs=1)
    assert_equals_the_definitions(advised.statistics(), module.seen)


class Contrastive(Classifier):
    """Scores of each sample against all; the counterpart has the sample's own number."""

    def __init__(self, *, labelled: bool = True) -> None:
        super().__init__()
        self.labelled = labelled

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        features = self((batch[0] if self.labelled else batch) / N)
        self.seen.append((0, [], features, features))
        return F.cross_entropy(features @ features.T, torch.arange(len(features)))


class Neighbour(Dataset[Any]):
    """Returns the next sample for each tenth one, or each so many, which is broken."""

    def __init__(self, every: int = 10) -> None:
        self.targets, self.every = labels().tolist(), every

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> Any:
        return dataset()[i + (i % self.every == 3)]


class Hidden(Dataset[Any]):
    """Shows its labels in samples only."""

    def __init__(self, data: Dataset[Any]) -> None:
        self.data = data

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> Any:
        return self.data[i]


def of_eight(form: Callable[[Tensor], Tensor] = torch.clone) -> DataLoader[Any]:
    """Batches whose labels, in some form, differ from those in the reverse order, whatever numbers the classes have."""
    return loader(TensorDataset(images(), form(labels())), batch_size=8)


class FloatingClasses(Ordered):
    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits, y.long())


class LabelsAlone(Classifier):
    """Trains on the labels of other samples."""

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = loss

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return self.function(logits, y.flip(0))


class OwnTargets(Classifier):
    """Trains on targets of its own."""

    def __init__(self, targets: Callable[..., Tensor], *, returns: bool = False) -> None:
        super().__init__()
        self.targets, self.returns = targets, returns

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y, *others = batch
        logits, targets = self(x / N), self.targets(y, *others)
        self.remember(x, logits, y if self.returns else targets)
        loss = F.cross_entropy(logits, targets)
        return {"loss": loss, "logits": logits, "targets": y} if self.returns else loss


def chosen_of_two(y: Tensor) -> Tensor:
    return torch.where(torch.arange(len(y)) % 2 > 0, y, y[permutation(y)])


def noisy(y: Tensor) -> Tensor:
    """Every fifth label is another one."""
    return torch.tensor([(int(label) + (i % 5 == 4)) % K for i, label in enumerate(y)])


def by_domain(y: Tensor, domain: Tensor) -> Tensor:
    """Most labels as they are; those of one class are another one in one domain."""
    return torch.where((domain == 1) & (y == 2), 0, y)


def by_hand(z: Tensor, y: Tensor) -> Tensor:
    return -z.log_softmax(1).gather(1, y[:, None]).mean()


class SortedResult(Ordered):
    """Returns logits in its own order beside the labels of the batch."""

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        self.logits = logits
        return super().loss(logits, y)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return {"loss": super().training_step(batch, batch_idx), "logits": self.logits, "targets": batch[1]}


class Mixed(Classifier):
    """Mixes images of two rows; each keeps its label."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        return super().training_step((0.9 * x + 0.1 * x[permutation(y)], y), batch_idx)


class NeighboursAlike(Classifier):
    """Tells whether a sample has the class of the next one."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        features = self.net[:3](x / N)
        scores = -(features - features.roll(1, 0)).square().sum(dim=1)
        self.remember(x, scores, y)
        return F.binary_cross_entropy_with_logits(scores, (y == y.roll(1)).float())


def half_labelled() -> DataLoader[Any]:
    y = labels()
    y[:11] = -1
    return loader(TensorDataset(images(), y), batch_size=N)


ORDER = "targets of the loss to be in the order of the batch"
NUMBERS = "to be classes of the samples, got the numbers of the rows.*`capture=`"
MADE = "to be classes of the samples, got numbers that the step itself makes"
ROWS = "rows of logits for 4 samples.*with -100 as their target"
RAISES: dict[str, tuple[Callable[[], Classifier], Callable[[], Any], type[Exception], str]] = {
    "through numpy": (lambda: Ordered(through_numpy), of_eight, SampleIdentityError, ORDER),
    "hook that permutes and changes": (
        lambda: Hooked(lambda batch: permuted(brightened(batch))), of_eight, SampleIdentityError, ORDER,
    ),
    "through numpy, rows with one 1": (
        lambda: Ordered(through_numpy), lambda: of_eight(lambda y: F.one_hot(y, K).float()), SampleIdentityError, ORDER,
    ),
    "through numpy, smoothed": (
        lambda: Ordered(through_numpy), lambda: of_eight(lambda y: F.one_hot(y, K) * 0.7 + 0.1), SampleIdentityError,
        ORDER,
    ),
    "through numpy, floating classes": (
        lambda: FloatingClasses(through_numpy), lambda: of_eight(lambda y: y.float()), SampleIdentityError, ORDER,
    ),
    "left out through numpy": (
        lambda: Ordered(lambda x, y: (x[1:], torch.from_numpy(y.numpy()[1:]))), loader, SampleIdentityError, ROWS,
    ),
    "labels alone": (lambda: LabelsAlone(F.cross_entropy), of_eight, SampleIdentityError, ORDER),
    "labels alone, a loss of the module's own": (lambda: LabelsAlone(by_hand), of_eight, SampleIdentityError, ORDER),
    "labels of two rows": (lambda: OwnTargets(chosen_of_two), of_eight, SampleIdentityError, "made of several rows"),
    "labels of two rows, as other numbers": (
        lambda: OwnTargets(lambda y: chosen_of_two(y).int().long().clone()), of_eight, SampleIdentityError,
        "made of several rows",
    ),
    "whether two rows have the same label": (NeighboursAlike, loader, SampleIdentityError, "made of several rows"),
    "noise in the step": (
        lambda: OwnTargets(noisy), lambda: loader(batch_size=N), SampleIdentityError, "follow.*got 4 of 22 targets in",
    ),
    "noise in the dataset, whose labels can be read": (
        Classifier, lambda: loader(Neighbour(5), batch_size=N), SampleIdentityError, "shows, got 4 of 22 samples",
    ),
    "sorted, and labels as they come beside its logits": (
        lambda: SortedResult(sorted_rows), of_eight, CaptureError, "returned `targets` to be in the order",
    ),
    "without a label, but for the loss": (
        lambda: OwnTargets(lambda y: y.clamp(min=0)), half_labelled, CaptureError, "-1 in the batch.*class 0.*be -100",
    ),
    "targets that are drawn": (
        lambda: OwnTargets(lambda y: torch.randint(0, K, y.shape)), lambda: loader(batch_size=N), CaptureError, MADE,
    ),
    "contrastive, across processes": (
        lambda: OwnTargets(lambda y: (torch.arange(len(y)) + 1) % K), loader, CaptureError, MADE,
    ),
    "contrastive": (Contrastive, of_eight, CaptureError, NUMBERS),
    "contrastive, without labels": (
        lambda: Contrastive(labelled=False), lambda: loader(images(), batch_size=8), CaptureError, NUMBERS,  # type: ignore[arg-type]  # a tensor is a dataset
    ),
    "contrastive, many rows": (
        lambda: Contrastive(labelled=False), lambda: loader(images(200), batch_size=200),  # type: ignore[arg-type]  # as above
        CaptureError, NUMBERS,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("model", "data", "error", "message"), RAISES.values(), ids=RAISES.keys())
def test_rows_that_cannot_be_followed_raise_in_the_first_batch(
    tmp_path: Path, model: Callable[[], Classifier], data: Callable[[], Any], error: type[Exception], message: str
) -> None:
    module = model()
    with pytest.raises(error, match=message):
        fit(tmp_path, TrainingDynamicsMonitor(), model=module, data=data)
    assert len(module.seen) == 1


class KeysOfTheirOwn(Dataset[Any]):
    """Does not show its labels, and gives them a key that nothing knows."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> Any:
        return {"meta": {"klass": int(labels()[i])}, "foto": images()[i]}


class OfKeys(Ordered):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step((batch["foto"], batch["meta"]["klass"]), batch_idx)


class ByHandOfKeys(OfKeys):
    """Computes a loss of its own, which tells which vector of the batch is the label."""

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return by_hand(logits, y)


def renumbered(x: Tensor, y: Tensor) -> Any:
    x, y = through_numpy(x, y)
    return x, torch.tensor([2, 0, 1])[y]


@pytest.mark.parametrize("order", [through_numpy, renumbered])
def test_labels_under_any_key_tell_in_the_first_batches_that_rows_are_reordered(tmp_path: Path, order: Any) -> None:
    module = OfKeys(order)
    with pytest.raises(SampleIdentityError, match=ORDER):
        fit(tmp_path, TrainingDynamicsMonitor(), model=module, data=lambda: loader(KeysOfTheirOwn(), batch_size=8))
    assert len(module.seen) <= 6
    for model in (OfKeys(looked_at), ByHandOfKeys(looked_at)):
        monitor = TrainingDynamicsMonitor(history=False)
        folder = tmp_path / type(model).__name__
        module = fit(folder, monitor, model=model, data=lambda: loader(KeysOfTheirOwn()), max_epochs=1)
        assert_equals_the_definitions(monitor.statistics(), module.seen)


def test_a_column_that_is_as_frequent_as_the_targets_by_chance_is_no_other_order() -> None:
    check, labels_by_name = LabelCheck(), [2, 0, 2, 0, 1, 0, 1, 1, 1, 0, 2, 2, 0, 0, 1, 2]
    names = [f"{i}.png" for i in range(16)]
    for rows in (slice(8), slice(8, 16)):  # two of such batches have a probability of .9 %
        columns: Any = {("file",): names[rows], ("domain",): (torch.arange(16) % 3)[rows]}
        check.see(columns, torch.tensor(labels_by_name[rows]), classes=3, is_traced=False)
    assert check.needs_steps


def test_class_0_alone_under_any_key_is_the_label_of_a_tensor_that_the_step_makes() -> None:
    check, zeros = LabelCheck(), torch.zeros(8, dtype=torch.int64)
    for _ in range(3):
        check.see({("klass",): zeros, ("number",): torch.arange(8)}, zeros, classes=3, is_traced=False)
    assert check.confirmed
    names: Any = [f"{i}.png" for i in range(8)]  # by which labels may be looked up, and come sorted
    LabelCheck().see({("file",): names}, zeros, classes=3, is_traced=False)
    with pytest.raises(CaptureError, match="class 0 throughout batches with several labels"):
        LabelCheck().see({("label",): torch.arange(8)}, zeros, classes=3, is_traced=False)


def test_a_layer_that_computes_with_rows_in_another_order_is_refused_in_the_first_batch(tmp_path: Path) -> None:
    module = Ordered(sorted_rows)
    with pytest.raises(SampleIdentityError, match=r"layer that `capture` names to compute.*`capture='auto'`"):
        fit(tmp_path, TrainingDynamicsMonitor(capture="module:net"), model=module, data=of_eight)
    assert len(module.seen) == 1


def test_a_layer_that_computes_with_some_rows_is_refused_with_the_advice_for_them(tmp_path: Path) -> None:
    model = Ordered(lambda x, y: (x[1:], y[1:]))
    with pytest.raises(CaptureError, match=r"each of 3 rows of logits, got 4 .*-100 as the target of rows left out"):
        fit(tmp_path, TrainingDynamicsMonitor(capture="module:net"), model=model)


@pytest.mark.parametrize("capture", ["auto", "module:net"])
def test_a_layer_that_computes_with_mixed_images_is_recorded(tmp_path: Path, capture: str) -> None:
    monitor = TrainingDynamicsMonitor(capture=capture, history=False)
    module, recorded = Mixed(), []
    module.remember = lambda x, logits, y: recorded.append((logits.detach().clone(), y))  # type: ignore[method-assign]
    fit(tmp_path, monitor, model=module, data=lambda: loader(shuffle=False), max_epochs=1)
    logits, y = torch.cat([each for each, _ in recorded]), labels()
    others = logits.scatter(1, y[:, None], -torch.inf).amax(dim=1)
    margins = logits.gather(1, y[:, None])[:, 0] - others
    np.testing.assert_allclose(monitor.statistics().margin, margins.numpy(), rtol=1e-6)


class Returned(Ordered):
    """Does as the error says: returns logits and targets in the order of the batch."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        *_, logits, targets = self.seen[-1]
        back = permutation(targets)
        return {"loss": loss, "logits": logits[back], "targets": torch.from_numpy(targets.numpy()[back.numpy()])}


def test_the_advice_of_the_error_gives_the_exact_record(tmp_path: Path) -> None:
    monitor, module = TrainingDynamicsMonitor(history=False), Returned(through_numpy)
    fit(tmp_path, monitor, model=module, max_epochs=2)
    assert_equals_the_definitions(monitor.statistics(), module.seen)


@pytest.mark.parametrize("targets", [chosen_of_two, noisy])
def test_targets_that_the_step_changes_are_recorded_as_the_error_advises(
    tmp_path: Path, targets: Callable[[Tensor], Tensor]
) -> None:
    monitor = TrainingDynamicsMonitor(history=False)
    module = fit(tmp_path, monitor, model=OwnTargets(targets, returns=True), max_epochs=2)
    assert_equals_the_definitions(monitor.statistics(), module.seen)


def test_targets_that_labels_and_another_column_tell_are_recorded(tmp_path: Path) -> None:
    monitor = TrainingDynamicsMonitor(history=False)
    data = TensorDataset(images(), labels(), torch.arange(N) % 2)
    model = OwnTargets(by_domain)
    # The dataset's own labels are compared when an epoch ends; here the batch alone is asked.
    module = fit(tmp_path, monitor, model=model, data=lambda: loader(Hidden(data), batch_size=N), max_epochs=2)
    assert_equals_the_definitions(monitor.statistics(), module.seen)


def test_a_neighbour_in_the_place_of_a_broken_sample_is_noticed_in_the_first_epoch(tmp_path: Path) -> None:
    module = Classifier()
    with pytest.raises(
        SampleIdentityError, match=r"labels that Neighbour shows, got 2 samples with another one, at position 3, 13"
    ):
        fit(tmp_path, TrainingDynamicsMonitor(), model=module, data=lambda: loader(Neighbour()))
    assert {epoch for epoch, *_ in module.seen} == {0}


def test_labels_of_another_kind_in_the_dataset_say_nothing(tmp_path: Path) -> None:
    data: Any = Subset(dataset(), range(N))
    data.dataset.targets = [0] * N
    other = Neighbour()
    other.targets = [i % 5 for i in range(N)]
    monitor = TrainingDynamicsMonitor()
    fit(tmp_path, monitor, data=lambda: loader(other), max_epochs=1)
    assert monitor.table()["presentations"].tolist() == [1] * N


def test_given_labels_are_read_without_a_sample() -> None:
    class Folder(Dataset[Any]):
        samples = (("a.png", 1), ("b.png", 0), ("c.png", 2))

        def __len__(self) -> int:
            return 3

        def __getitem__(self, i: int) -> Any:
            raise AssertionError("a sample was read")

    class Other(Subset[Any]):
        def __getitem__(self, i: Any) -> Any:
            return None

        def __getitems__(self, indices: Any) -> Any:
            return [None for _ in indices]

    folder: Any = Folder()
    tensors = TensorDataset(torch.zeros(2, 1), torch.tensor([[4], [5]]))
    assert given_labels(folder).tolist() == [1, 0, 2]  # type: ignore[union-attr]
    both: Any = ConcatDataset([Subset(folder, [2, 0]), IndexedDataset(tensors)])
    assert given_labels(both).tolist() == [2, 1, 4, 5]  # type: ignore[union-attr]
    assert given_labels(RelabelledDataset(folder, {1: (0, 2)})).tolist() == [1, 2, 2]  # type: ignore[union-attr]
    assert given_labels(Other(folder, [0])) is None
    assert given_labels(ConcatDataset([folder, TensorDataset(torch.zeros(2, 1))])) is None
    folder.targets = [0.5, 1.5, 2.5]
    assert given_labels(folder).tolist() == [1, 0, 2]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("targets", torch.tensor([2.0, 0.0, 1.0]), [2, 0, 1]),
        ("label", pd.Series([2, 0, 1], index=[7, 3, 5], dtype=object), [2, 0, 1]),
        ("labels", np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]]), [2, 0, 1]),
        (
            "samples",
            [{"path": "a.png", "label": 2}, {"path": "b.png", "label": 0}, {"path": "c.png", "label": 1}],
            [2, 0, 1],
        ),
        ("_labels", [2, 0, 1], [2, 0, 1]),
        ("tensors", (torch.zeros(3, 1), torch.tensor([2, 0, 1])), [2, 0, 1]),
        ("imgs", [("a.png", 2), ("b.png", 0), ("c.png", 1)], [2, 0, 1]),
        ("frame", pd.DataFrame({"path": ["a", "b", "c"], "target": [2, 0, 1]}), [2, 0, 1]),
        ("targets", np.array([[1, 1, 0], [1, 0, 0], [0, 1, 0]]), None),
        ("targets", [0.5, 1.0, 2.0], None),
        ("labels", ["cat", "dog"], None),
    ],
    ids=[
        "floats",
        "objects",
        "rows with one 1",
        "dicts",
        "private",
        "tensors of a class of the user's own",
        "images",
        "data frame",
        "several labels",
        "numbers",
        "class names",
    ],
)
def test_given_labels_may_have_many_forms(name: str, values: Any, expected: list[int] | None) -> None:
    data: Any = type("Data", (list,), {})([0, 0, 0])
    setattr(data, name, values)
    given = given_labels(data)
    assert (given if given is None else given.tolist()) == expected


def test_a_property_that_reads_samples_leaves_random_numbers_as_they_were() -> None:
    class Augmented(Hidden):
        @property
        def targets(self) -> list[int]:
            torch.rand(1)
            return [int(self[i][1]) for i in range(len(self))]

    state = torch.get_rng_state()
    assert given_labels(Augmented(dataset())).tolist() == labels().tolist()  # type: ignore[union-attr]  # None fails the test
    assert torch.equal(torch.get_rng_state(), state)


def test_given_labels_that_are_words_are_no_targets_by_number() -> None:
    stack: Any = StackDataset  # typed for datasets alone
    words = stack(image=[0, 0, 0], label=["dog", "cat", "dog"])
    given = given_labels(words)
    assert given is not None
    assert given[0] == given[2] > given[1] > 2**32
    assert given_labels(stack([0, 0], [3, 1])).tolist() == [3, 1]  # type: ignore[union-attr]


def test_given_labels_of_a_hugging_face_dataset_are_those_of_its_class_column() -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"text": datasets.Value("string"), "kind": datasets.ClassLabel(names=["no", "yes"])})
    data = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "kind": [1, 0, 1]}, features=features)
    assert given_labels(data.select([2, 1])).tolist() == [1, 0]  # type: ignore[union-attr]
    plain = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [4, 2]})
    assert given_labels(plain).tolist() == [4, 2]  # type: ignore[union-attr]
    assert given_labels(datasets.Dataset.from_dict({"text": ["a"], "label": [0.5]})) is None


@pytest.mark.parametrize(
    ("given", "targets", "places"),
    [
        ([0, 1, 2, 0, 1, 2], [0, 1, 2, 0, 1, 2], []),
        ([0, 1, 2, 0, 1, 2], [5, 6, 7, 5, 6, 7], []),
        ([0, 1, 2, 0, 1, 2], [0, 1, 1, 0, 1, 1], []),
        ([0, 1, 2, 0, 1, 2, 0, 1], [0, 1, 2, 0, 1, 2, 0, 2], [7]),
        ([0, 0, 1, 1, 2, 2], [0, 1, 0, 1, 0, 1], []),
        ([0, 1, 2, 3], [0, 0, 0, 0], []),
        ([], [], []),
    ],
)
def test_targets_disagree_where_most_follow_from_the_labels(
    given: list[int], targets: list[int], places: list[int]
) -> None:
    assert disagreements(np.array(given, np.int64), np.array(targets, np.int64)).tolist() == places


def test_a_step_that_leaves_rows_to_the_loss_is_traced_once(tmp_path: Path) -> None:
    monitor = TrainingDynamicsMonitor()
    fit(tmp_path, monitor, data=lambda: DataLoader(dataset(), batch_size=4), max_epochs=1)
    assert not monitor._step.rows.traces


def test_a_step_that_takes_all_rows_leaves_them_in_order(tmp_path: Path) -> None:
    monitor = TrainingDynamicsMonitor()
    fit(tmp_path, monitor, model=Ordered(lambda x, y: (x[:, :1], y[:])), max_epochs=1)
    assert not monitor._step.rows.traces


@pytest.mark.parametrize("path", [("label",), GIVEN])
def test_labels_that_differ_in_a_fifth_of_small_batches_are_told_within_a_hundred_rows(path: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(100) % 2
    targets = torch.where(torch.rand(100, generator=generator) < 0.2, 1 - y, y)
    check = LabelCheck()

    def see_all() -> None:
        for rows in torch.arange(100).view(25, 4):
            assert check.needs_steps
            check.see({path: y[rows], ("number",): rows}, targets[rows], classes=2, is_traced=True)

    with pytest.raises(SampleIdentityError, match=r"got \d+ of \d+"):
        see_all()


def test_targets_of_samples_without_a_label_are_not_compared_with_it() -> None:
    y, check = torch.arange(60) % 3, LabelCheck()
    given = torch.where(torch.arange(60) % 5 == 0, -1, y)  # a fifth has none, and gets one of a model
    columns: Any = {GIVEN: given, (1,): y}
    check.see(columns, y, classes=3, is_traced=True)
    given[1] = (given[1] + 1) % 3
    with pytest.raises(SampleIdentityError, match=r"got 1 of 96 samples .*, such as 1 where 2 is shown"):
        check.see(columns, y, classes=3, is_traced=True)


def test_labels_of_the_dataset_in_another_order_are_told_though_the_batch_has_the_same() -> None:
    check, y = LabelCheck(), torch.arange(12) // 4
    columns: Any = {GIVEN: y.roll(1), (1,): y}
    check.see(columns, y, classes=3, is_traced=True)  # 3 % of unrelated labels have four of each class, too
    with pytest.raises(SampleIdentityError, match="got the same in another order"):
        check.see(columns, y, classes=3, is_traced=True)


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("is_sorted", [False, True])
def test_classes_that_the_dataset_exchanges_are_no_other_order(classes: int, is_sorted: bool) -> None:
    check = LabelCheck()
    for step in range(3):  # balanced batches, as of samplers that draw so many of each class
        order = torch.randperm(4 * classes, generator=torch.Generator().manual_seed(step))
        y = (torch.arange(4 * classes) % classes)[order]
        y = y.sort().values if is_sorted else y
        exchanged = classes - 1 - y
        check.see({GIVEN: y, (1,): exchanged}, exchanged, classes=classes, is_traced=True)
    assert check.confirmed


def test_another_order_of_many_classes_is_told_beyond_the_range_of_floats() -> None:
    # Class k is there k + 1 times, and so is the label k + 1000. With n = 20,100 samples, the probability of chance
    # is n! * prod((c / n)^c / c!) = 1e-265, times 200! = 1e375 ways to number the labels; in two steps 1e-530 * 1e375.
    target = [k for k in range(200) for _ in range(k + 1)]
    label = [k + 1000 for k in target[1:] + target[:1]]
    order = OrderCheck()
    assert [order.refutes(label, target) for _ in range(2)] == [False, True]


def test_targets_that_have_nothing_to_do_with_the_labels_are_looked_at_for_a_hundred_rows() -> None:
    check, generator = LabelCheck(), torch.Generator().manual_seed(0)
    rows = 0
    while check.needs_steps:
        check.see(
            {("label",): torch.randint(2, (10,), generator=generator)},
            torch.randint(2, (10,), generator=generator),
            classes=2,
            is_traced=True,
        )
        rows += 10
    assert rows == 100


def test_two_classes_in_turn_backwards_are_another_order_and_no_renumbering() -> None:
    check = LabelCheck()
    column: dict[Any, Any] = {("label",): torch.tensor([0, 1, 0, 1])}
    with pytest.raises(SampleIdentityError, match="got its labels in another order"):
        check.see(column, torch.tensor([1, 0, 1, 0]), classes=2, is_traced=False)
    renumbered = LabelCheck()
    renumbered.see(
        {("label",): torch.tensor([0, 1, 0, 1, 1])}, torch.tensor([1, 0, 1, 0, 0]), classes=2, is_traced=False
    )
    assert renumbered.confirmed


def with_nodes(samples: list[Any]) -> list[Any]:
    """As of graphs: three nodes for each sample stand in one tensor."""
    x, y = default_collate(samples)
    return [x, y, torch.arange(3 * len(y))]


@pytest.mark.parametrize(
    "change",
    [lambda batch: [part.clone() for part in batch], lambda batch: [*permuted(batch[:2]), batch[2]]],
    ids=["copies", "reorders"],
)
def test_a_hook_may_get_tensors_with_other_numbers_of_rows(
    tmp_path: Path, change: Callable[[list[Any]], list[Any]]
) -> None:
    monitor = TrainingDynamicsMonitor(history=False)
    data = partial(loader, collate_fn=with_nodes)
    module = fit_undisturbed(tmp_path, monitor, lambda: Hooked(change), data=data, max_epochs=2)
    assert_equals_the_definitions(monitor.statistics(), module.seen)
