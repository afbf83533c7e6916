"""One of everything that a training may be made of, drawn from a number: loader, batch, step, loss and Trainer."""

import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import pytest
import torch
from torch import Tensor, nn
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

from dynalens import IndexedDataset
from training import Classifier, K, N, images, labels

Rows = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Named(NamedTuple):
    image: Any
    label: Any


class Form(NamedTuple):
    """A form of samples and batches: how one is made of its input and label, and where both are in it."""

    made: Callable[[Any, Any], Any]
    parts: Callable[[Any], tuple[Any, Any]]
    replaced: Callable[[Any, Any, Any], Any]
    """Returns a batch with other inputs and labels; what else it holds stays."""


def spread(x: Any, y: Any) -> Any:
    return torch.zeros(2, 2), {"size": torch.ones(2), "file": "none.png"}, x, y


FORMS = {
    "pairs": Form(lambda x, y: (x, y), lambda s: (s[0], s[1]), lambda b, x, y: [x, y, *b[2:]]),
    "dicts": Form(
        lambda x, y: {"x": x, "y": y}, lambda s: (s["x"], s["y"]), lambda b, x, y: {**b, "x": x, "y": y}
    ),
    "nested": Form(
        lambda x, y: {"inputs": {"image": x}, "label": y},
        lambda s: (s["inputs"]["image"], s["label"]),
        lambda b, x, y: {**b, "inputs": {"image": x}, "label": y},
    ),
    "keys of their own": Form(
        lambda x, y: {"meta": {"klass": y}, "foto": x},
        lambda s: (s["foto"], s["meta"]["klass"]),
        lambda b, x, y: {**b, "meta": {"klass": y}, "foto": x},
    ),
    "named": Form(Named, lambda s: (s[0], s[1]), lambda b, x, y: Named(x, y) if len(b) == 2 else (x, y, *b[2:])),
    "spread": Form(spread, lambda s: (s[2], s[3]), lambda b, x, y: [*b[:2], x, y, *b[4:]]),
}  # fmt: skip


class Items(Dataset[Any]):
    """A dataset of the user's own, whose samples have some form."""

    def __init__(self, form: Form, y: Tensor, *, shown: bool) -> None:
        self.form, self.images = form, images()
        self.labels: list[Any] = y.tolist() if y.ndim == 1 else list(y)
        if shown:
            self.targets = list(self.labels)

    def __len__(self) -> int:
        return N

    def __getitem__(self, key: Any) -> Any:
        i = key["index"] if isinstance(key, dict) else key[0] if isinstance(key, tuple) else key
        return self.form.made(self.images[i], self.labels[i])


class AtOnce(Items):
    """Gives the samples of a batch at once, as datasets of Hugging Face do, and its columns by their names."""

    class Class(NamedTuple):
        names: list[str]

    features: ClassVar[Any] = {"x": None, "y": Class(["a", "b", "c"])}

    def __getitem__(self, key: Any) -> Any:
        return self.labels if key == "y" else super().__getitem__(key)

    def __getitems__(self, keys: list[Any]) -> list[Any]:
        return [self[key] for key in keys]


class Drawn(RandomSampler):
    """Draws positions in a form of its own."""

    def __init__(self, form: Callable[[int], Any]) -> None:
        super().__init__(range(N))
        self.form = form

    def __iter__(self) -> Iterator[Any]:
        return map(self.form, super().__iter__())


def brightness(x: Tensor) -> float:
    return float(x[0, 1:].sum())


class Collate:
    """A collate function, which workers can be sent: orders, leaves out and changes samples."""

    def __init__(self, kind: str, form: Form) -> None:
        self.kind, self.form = kind, form

    def __call__(self, samples: list[Any]) -> Any:
        def key(sample: Any) -> float:
            return brightness(self.form.parts(sample)[0])

        if "in place" in self.kind:
            samples.sort(key=key)
        if "sorted" in self.kind:
            samples = sorted(samples, key=key)
        if "bright" in self.kind:
            samples = [sample for sample in samples if key(sample) > 0] or samples[:1]
        batch = default_collate(samples)
        if "scaled" in self.kind:  # no sample's numbers, but for the first pixel, which tells the module the index
            self.form.parts(batch)[0][:, :, 1:] *= 0.5
        return batch


def same(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return x, y


def reverse(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return x.flip(0), y.flip(0)


def above_zero(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    keep = y > 0
    return (x[keep], y[keep]) if bool(keep.any()) else (x, y)


def by_label(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    y, order = torch.sort(y, stable=True, descending=True)
    return x[order], y


def untraced(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return x, torch.tensor(y.tolist(), device=y.device)


def through_lists(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    order = list(range(len(y)))[::-1]
    return x[order], torch.tensor([int(y[i]) for i in order], device=y.device)


class Loss(NamedTuple):
    """A form of a loss, and what the module remembers of it."""

    function: Callable[[Tensor, Tensor], Tensor]
    kind: str = ""
    """"binary" where the logits are (N, 1); "observed" where it calls none of torch's losses; "ignores" class 2;
    "auxiliary" where a second head has the same targets; "beside" where another loss has none of the labels; "labels",
    "tokens" and "numbers" where a sample has several targets, or is none of a class."""


def focal(z: Tensor, y: Tensor) -> Tensor:
    log_p = z.log_softmax(dim=1).gather(1, y[:, None])[:, 0]
    return -((1 - log_p.exp()) ** 2 * log_p).mean()


def smoothing(z: Tensor, y: Tensor) -> Tensor:
    log_p = F.log_softmax(z, dim=-1)
    return (-0.9 * log_p.gather(-1, y.unsqueeze(1)).squeeze(1) - 0.1 * log_p.mean(dim=-1)).mean()


def by_hand(z: Tensor, y: Tensor) -> Tensor:
    p, y = torch.sigmoid(z.float()).squeeze(), y.squeeze()  # of no dimension, for a batch of one
    return -(y * p.log() + (1 - y) * (1 - p).log()).mean()


def without_class_2(z: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(z, y, ignore_index=2, reduction="sum") / max(1, len(y))


def hard_ones(z: Tensor, y: Tensor) -> Tensor:
    """Keeps rows by a mask of their labels, as padding and hard examples are left out."""
    keep = y > 0 if bool((y > 0).any()) else y > -1
    return F.cross_entropy(z[keep], y[keep])


LOSSES: dict[str, Loss] = {
    "cross_entropy": Loss(F.cross_entropy),
    "sum": Loss(lambda z, y: F.cross_entropy(z, y, reduction="sum") / 8),
    "none": Loss(lambda z, y: (F.cross_entropy(z, y, reduction="none") * torch.linspace(0.5, 1, len(y))).mean()),
    "smoothing": Loss(nn.CrossEntropyLoss(label_smoothing=0.1)),
    "weighted": Loss(lambda z, y: F.cross_entropy(z, y, weight=torch.tensor([1.0, 2.0, 0.5], dtype=z.dtype))),
    "nll": Loss(lambda z, y: F.nll_loss(z.log_softmax(1), y), "rounded"),
    "one-hot": Loss(lambda z, y: F.cross_entropy(z, F.one_hot(y, K).to(z.dtype))),
    "smoothed": Loss(lambda z, y: F.cross_entropy(z, F.one_hot(y, K).to(z.dtype) * 0.9 + 0.1 / K)),
    "ignores": Loss(without_class_2, "ignores"),
    "masked": Loss(hard_ones, "masked"),
    "within": Loss(F.cross_entropy, "within"),
    "twice": Loss(F.cross_entropy, "within twice"),
    "focal": Loss(focal, "observed"),
    "own smoothing": Loss(smoothing, "observed"),
    "squeezed": Loss(lambda z, y: F.binary_cross_entropy_with_logits(z.squeeze(), y.squeeze().to(z.dtype)), "binary"),
    "binary": Loss(lambda z, y: F.binary_cross_entropy_with_logits(z, y[:, None].to(z.dtype)), "binary"),
    "smoothed binary": Loss(
        lambda z, y: F.binary_cross_entropy_with_logits(z[:, 0], 0.9 * y.to(z.dtype) + 0.05), "binary"
    ),
    "by hand": Loss(by_hand, "binary observed"),
    "auxiliary": Loss(F.cross_entropy, "auxiliary"),
    "beside": Loss(F.cross_entropy, "beside"),
    "labels": Loss(lambda z, y: F.binary_cross_entropy_with_logits(z, y.to(z.dtype)), "labels"),
    "tokens": Loss(lambda z, y: F.cross_entropy(z, y.long()), "tokens"),
    "numbers": Loss(lambda z, y: F.mse_loss(z, y.to(z.dtype)), "numbers"),
}  # fmt: skip


class Combination(NamedTuple):
    """One of each."""

    dataset: str
    form: str
    sampler: str
    collate: str
    workers: int
    loss: str
    step: Any
    hook: Any
    skips: str
    returns: bool
    manual: bool
    options: dict[str, Any]

    @property
    def is_binary(self) -> bool:
        return "binary" in LOSSES[self.loss].kind

    @property
    def has_units(self) -> bool:
        """Whether the targets of a sample are no class."""
        return LOSSES[self.loss].kind in ("labels", "tokens", "numbers")


DATASETS = ["own", "own", "shown", "tensors", "subset", "parts", "indexed", "int32", "at once"]
SAMPLERS = ["order", "shuffle", "weighted", "batches", "negative", "sized", "dicts", "stateful"]
COLLATES = ["", "", "", "plain", "sorted", "in place", "bright", "scaled", "sorted, scaled"]
OPTIONS: list[dict[str, Any]] = [
    {}, {}, {"precision": "bf16-mixed"}, {"precision": "16-mixed"}, {"precision": "64-true"},
    {"accumulate_grad_batches": 2}, {"limit_train_batches": 2}, {"gradient_clip_val": 0.5},
]  # fmt: skip


def drawn(number: int) -> Combination:
    """Draw the combination of this number."""
    draw = random.Random(number)
    case = Combination(
        dataset=draw.choice(DATASETS),
        form=draw.choice(["pairs", "pairs", "dicts", "nested", "named", "spread", "keys of their own"]),
        sampler=draw.choice(SAMPLERS),
        collate=draw.choice(COLLATES),
        workers=draw.choice([0] * 19 + [1]),
        loss=draw.choice(sorted(LOSSES)),
        step=draw.choice([same, same, reverse, above_zero, by_label, untraced, through_lists]),
        hook=draw.choice([same, same, same, reverse, above_zero]),
        skips=draw.choice(["", "", "", "before", "after"]),
        returns=draw.random() < 0.15,
        manual=draw.random() < 0.15,
        options=draw.choice(OPTIONS),
    )
    return _possible(case)


def _possible(case: Combination) -> Combination:
    """Return the combination without what does not go together, in torch, in Lightning or in what can be known."""
    if case.sampler in ("sized", "dicts") and case.dataset not in ("indexed", "at once"):  # torch's own take none
        case = case._replace(dataset="own")
    if case.has_units:
        dataset = "own" if case.dataset in ("int32", "at once") else case.dataset
        step, hook = (f if f in (same, reverse) else reverse for f in (case.step, case.hook))
        case = case._replace(dataset=dataset, step=step, hook=hook, returns=False)
    if case.loss == "beside":  # the labels of which are to be followed in the order of the batch
        case = case._replace(step=same)
    if case.dataset in ("tensors", "int32"):
        case = case._replace(form="pairs")
    if case.dataset == "at once":
        case = case._replace(form="dicts")
    if case.step is through_lists:  # few rows of two classes in turn are, in the reverse order, other names of these
        case = case._replace(hook=same, sampler="shuffle" if case.sampler == "order" else case.sampler)
    if case.manual:
        case = case._replace(options={}, skips="" if case.skips == "before" else case.skips)
    kind, mixed = LOSSES[case.loss].kind, "mixed" in case.options.get("precision", "")
    # In bfloat16 the inputs of nll_loss are rounded once more than the logits that the module remembers.
    return case._replace(options={}) if mixed and "rounded" in kind else case


def may_raise(case: Combination) -> bool:
    """Whether rows are chosen or ordered in a way that nothing can tell: only then is an error right."""
    if case.step is untraced and case.loss == "masked":
        return True
    return case.step is through_lists or (case.collate == "sorted, scaled" and case.dataset != "indexed")


def targets_of(case: Combination) -> Tensor:
    """Return the targets of all samples."""
    y = labels()
    if case.loss == "labels":  # one to three of them
        return (y[:, None] >= torch.arange(K)).float()
    if case.loss == "tokens":
        return torch.stack([y, (y + 1) % K], dim=1)
    if case.loss == "numbers":
        return 1.5 * y - 0.1 * torch.arange(N)
    return (y == 1).long() if case.is_binary else y


def dataset_of(case: Combination) -> Any:
    y = targets_of(case)
    if case.dataset in ("tensors", "int32"):
        return TensorDataset(images(), y.int() if case.dataset == "int32" else y)
    kind = AtOnce if case.dataset == "at once" else Items
    data = kind(FORMS[case.form], y, shown=case.dataset == "shown")
    if case.dataset == "subset":
        return Subset(Subset(data, range(N)), list(range(N)))
    if case.dataset == "parts":
        return ConcatDataset([Subset(data, range(9)), Subset(data, range(9, N))])
    return IndexedDataset(data) if case.dataset == "indexed" else data


def data_of(case: Combination) -> DataLoader[Any]:
    """Return a new loader of the combination."""
    data = dataset_of(case)
    collate = Collate(case.collate, FORMS[case.form]) if case.collate else None
    options: dict[str, Any] = {"collate_fn": collate, "num_workers": case.workers, "batch_size": 7}
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


class Network(nn.Module):
    """Computes its loss itself where it is given labels, as the models of transformers."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, y: Tensor | None = None) -> Mapping[str, Tensor]:
        logits = self.net(x)
        return (
            {"logits": logits}
            if y is None
            else {"loss": F.cross_entropy(logits.view(-1, K), y.view(-1)), "logits": logits}
        )


class Heads(nn.Module):
    """Returns auxiliary logits, too, and first, while it trains."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net, self.auxiliary = net, nn.Linear(64, K)

    def forward(self, x: Tensor) -> Any:
        features = self.net[:3](x)
        main = self.net[3](features)
        return (self.auxiliary(features), main) if self.training else main


class Combined(Classifier):
    """Does as its combination says, and keeps its own record."""

    def __init__(self, case: Combination) -> None:
        super().__init__()
        self.case, self.form, self.kind = case, FORMS[case.form], LOSSES[case.loss].kind
        self.automatic_optimization = not case.manual
        self.whole = Network(self.net)
        self.heads = Heads(self.net)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        x, y = self.form.parts(batch)
        batch = self.form.replaced(batch, *self.case.hook(x, y))
        if self.case.dataset == "indexed" and self.case.hook is not same:  # the index goes with the others
            index = IndexedDataset.indices(batch)
            rows = self.case.hook(torch.arange(len(index)), y)[0]
            batch = {**batch, "index": index[rows]} if isinstance(batch, dict) else [*batch[:-1], index[rows]]
        return batch

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        skips = self.case.skips if batch_idx % 3 == 1 else ""
        if skips == "before":
            return None
        x, y = self.case.step(*self.form.parts(batch))
        logits, targets, loss = self.computed(x / N, y if self.case.has_units else y.long())
        if skips:
            return None
        self.note(x, logits, targets)
        if self.case.manual:
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        return {"loss": loss, "logits": logits, "targets": targets} if self.returns_rows else loss

    @property
    def returns_rows(self) -> bool:
        return self.case.returns and self.kind not in ("masked", "ignores")

    def computed(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits, targets and the loss of them."""
        function = LOSSES[self.case.loss].function
        if "within" in self.kind:
            outputs = self.whole(x, y)
            logits = outputs["logits"]
            return logits, y, function(logits.float(), y) if "twice" in self.kind else outputs["loss"]
        if self.kind == "auxiliary":
            auxiliary, logits = self.heads(x)
            return logits, y, function(logits, y) + 0.4 * function(auxiliary, y)
        logits = self(x)
        if self.kind == "beside":
            one, other = (self.net[:3](view).flatten(1) for view in (x, x.flip(3)))
            return logits, y, function(logits, y) + 0.1 * F.cross_entropy(one @ other.T, torch.arange(len(one)))
        if self.kind == "tokens":
            logits = torch.stack([logits, 0.5 * logits.flip(1)], dim=2)
        logits = logits[:, 0] if self.kind == "numbers" else logits
        logits = logits[:, :1] if self.case.is_binary else logits
        return logits, y, function(logits, y)

    def note(self, x: Tensor, logits: Tensor, y: Tensor) -> None:
        """Remember what the loss was computed of."""
        if self.case.is_binary:
            flat = logits.detach().flatten()
            logits = torch.stack([torch.zeros_like(flat), flat], dim=1)
        if self.kind == "numbers":
            y = y.to(logits.dtype)  # as the loss is given them
        keep = torch.ones(len(y), dtype=torch.bool)
        if self.kind == "ignores":
            keep = y != 2
        elif self.kind == "masked" and bool((y > 0).any()):
            keep = y > 0
        self.remember(x[keep], logits[keep].float() if logits.dtype != torch.float64 else logits[keep], y[keep])
