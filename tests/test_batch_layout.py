"""Where inputs and targets stand in a batch is learned from a training step that uses them."""

from collections import UserDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynalens.capture import (
    BatchLayout,
    BatchObserver,
    CaptureError,
    class_labels,
    images_and_labels,
    inputs_to_show,
    name_no_classes,
)
from dynalens.capture.entries import entry_at, leaves

N, K = 4, 3
CLASSES = torch.tensor([0, 2, 1, 2])
OTHERS = torch.tensor([1, 1, 0, 2])


def pixels() -> Tensor:
    return torch.rand(N, 1, 4, 4, generator=torch.Generator().manual_seed(0))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(1, 2, 3), nn.Linear(8, K)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.stem(x.float()).relu().flatten(1))


class Batch(UserDict[str, Any]):
    """As the batches of Hugging Face: no dict, but a mapping."""


@dataclass(frozen=True)
class Item:
    domain: Tensor
    scan: Tensor
    kind: Tensor


Named = namedtuple("Named", ["weight", "scan", "kind"])


class Plain:
    def __init__(self) -> None:
        self.scan, self.kind = pixels(), CLASSES.clone()


def observed(batch: Any, step: Callable[[nn.Module, Any], Any], model: nn.Module | None = None) -> BatchLayout:
    """The layout after one step."""
    observer, network = BatchObserver(), model or Network()
    observer.start(network, batch)
    step(network, batch)
    observer.stop()
    observer.finish()
    assert not any(module._forward_hooks for module in network.modules())
    return observer.layout


@pytest.mark.parametrize(
    ("batch", "inputs", "labels"),
    [
        ({"mask": pixels(), "kind": CLASSES, "meta": {"n": OTHERS}, "scan": pixels()}, ("scan",), ("kind",)),
        ({"meta": [OTHERS, {"scan": pixels()}], "kind": CLASSES}, ("meta", 1, "scan"), ("kind",)),
        (Batch(domain=OTHERS, scan=pixels(), kind=CLASSES), ("scan",), ("kind",)),
        (Item(OTHERS, pixels(), CLASSES), ("scan",), ("kind",)),
        (Named(torch.rand(N), pixels(), CLASSES), (1,), (2,)),
        (Plain(), ("scan",), ("kind",)),
    ],
    ids=["dict", "nested", "BatchFeature", "dataclass", "named tuple", "object"],
)
def test_entries_that_a_step_uses_are_found_in_every_container(batch: Any, inputs: Any, labels: Any) -> None:
    def step(model: nn.Module, batch: Any) -> None:
        entries = dict(leaves(batch))
        F.cross_entropy(model(entries[inputs]), entries[labels])

    assert observed(batch, step) == BatchLayout(inputs, labels, "cross_entropy", -100)


STEPS: dict[str, tuple[Callable[[Any, Any], Any], Any, Any]] = {
    "views": (lambda m, b: F.cross_entropy(m(b[0].view(N, 1, 4, 4)), b[1].view(-1)), (0,), (1,)),
    "other dtypes": (lambda m, b: F.cross_entropy(m(b[0].double()), b[1].int().long()), (0,), (1,)),
    "a part of the module": (lambda m, b: F.cross_entropy(m.head(m.stem(b[0]).flatten(1)), b[1]), (0,), (1,)),
    "a frozen backbone": (
        lambda m, b: F.cross_entropy(m.head(torch.no_grad()(m.stem)(b[0]).flatten(1)), b[1]), (0,), (1,),
    ),
    "a loss that ignores a class": (lambda m, b: F.cross_entropy(m(b[0]), b[1], ignore_index=2), (0,), (1,)),
    "inputs that the step transforms": (lambda m, b: F.cross_entropy(m(b[0] * 2), b[1]), None, (1,)),
    "a loss of one's own": (lambda m, b: (m(b[0]).logsumexp(1) - b[1]).mean(), (0,), None),
}  # fmt: skip


@pytest.mark.parametrize(("step", "inputs", "labels"), STEPS.values(), ids=STEPS.keys())
def test_entries_are_found_through_views_and_copies_but_not_guessed(step: Any, inputs: Any, labels: Any) -> None:
    layout = observed((pixels(), CLASSES.clone(), OTHERS), step)
    assert (layout.inputs, layout.labels) == (inputs, labels)


def test_images_whose_channels_the_step_moves_are_read_as_the_network_is_given_them() -> None:
    last = pixels().permute(0, 2, 3, 1).contiguous()
    layout = observed((last, CLASSES), lambda m, b: F.cross_entropy(m(b[0].permute(0, 3, 1, 2)), b[1]))
    other = torch.rand(2, 4, 4, 1)
    assert torch.equal(images_and_labels((other, CLASSES[:2]), layout=layout)[0], other.movedim(3, 1))


def test_images_that_the_step_flattens_are_read_as_rows_unless_a_module_was_given_them_whole() -> None:
    net = nn.Linear(16, K)
    layout = observed((pixels(), CLASSES), lambda m, b: F.cross_entropy(m(b[0].flatten(1)), b[1]), net)
    assert images_and_labels((pixels(), CLASSES), layout=layout)[0].shape == (N, 16)
    whole = nn.Sequential(nn.Flatten(), net)
    layout = observed((pixels(), CLASSES), lambda m, b: F.cross_entropy(m(b[0]), b[1]), whole)
    assert images_and_labels((pixels(), CLASSES), layout=layout)[0].shape == (N, 1, 4, 4)


def test_one_hot_rows_are_the_labels_whose_classes_the_loss_was_given() -> None:
    batch = (pixels(), OTHERS, F.one_hot(CLASSES, K))
    layout = observed(batch, lambda model, b: F.cross_entropy(model(b[0]), b[2].argmax(1)))
    assert layout.labels == (2,)


def test_labels_are_known_where_a_loss_compares_each_class_with_all_others() -> None:
    def step(model: nn.Module, batch: Any) -> None:
        logits = model(batch[0])
        for k in range(K):
            F.binary_cross_entropy_with_logits(logits[:, k], (batch[1] == k).float())

    layout = observed((pixels(), CLASSES), step)
    assert layout.labels == (1,)
    assert not layout.renumbered


def test_neither_of_two_entries_that_name_the_same_classes_is_guessed() -> None:
    batch = (pixels(), CLASSES.clone(), CLASSES.clone())
    assert observed(batch, lambda model, b: F.cross_entropy(model(b[0]), b[1] + 0)).labels is None


class WithMask(Network):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Any:
        return self.head((self.stem(x) * (1 if mask is None else mask.mean())).flatten(1))


def test_the_one_of_two_inputs_that_a_layer_was_given_alone_is_taken() -> None:
    batch = {"mask": pixels(), "scan": pixels(), "kind": CLASSES}
    layout = observed(batch, lambda m, b: F.cross_entropy(m(b["scan"], mask=b["mask"]), b["kind"]), WithMask())
    assert layout.inputs == ("scan",)


def hidden(model: nn.Module, batch: Any) -> None:
    """Every second token is hidden and predicted at its own place."""
    is_hidden = torch.arange(6) % 2 == 0
    scores = model(batch["input_ids"].masked_fill(is_hidden, 0))
    F.cross_entropy(scores.flatten(0, 1), batch["input_ids"].masked_fill(~is_hidden, -100).flatten())


def chosen(model: nn.Module, batch: Any) -> None:
    """Tokens that count are taken out of their sentences."""
    is_counted = batch["tags"] >= 0
    F.cross_entropy(model(batch["input_ids"])[is_counted], batch["tags"][is_counted])


def following(model: nn.Module, batch: Any) -> None:
    words = batch["input_ids"].clone()  # as a tokenizer may leave it
    F.cross_entropy(model(words[:, :-1]).movedim(2, 1), batch["input_ids"][:, 1:] + 0)


@pytest.mark.parametrize(
    ("step", "labels", "shift"), [(chosen, ("tags",), 0), (following, ("input_ids",), 1), (hidden, None, 0)]
)
def test_tokens_of_the_loss_are_found_where_the_step_moves_or_takes_out_but_not_where_it_hides_them(
    step: Any, labels: Any, shift: int
) -> None:
    words = torch.arange(N * 6).view(N, 6) % 7
    batch = {"input_ids": words, "tags": (words % 3).masked_fill(words > 5, -100)}
    layout = observed(batch, step, nn.Embedding(7, 7))
    assert (layout.labels, layout.shift, layout.dense) == (labels, shift, labels is not None)
    if labels is not None:
        assert layout.inputs == ("input_ids",)
        x, y = images_and_labels(batch, layout=layout)
        assert (x.shape, y.shape) == ((N, 6 - shift), (N, 6))


def test_only_the_first_steps_are_watched() -> None:
    observer, model, batch = BatchObserver(), Network(), (pixels(), CLASSES)
    for watched in (True, False):
        observer.start(model, batch)
        assert bool(model.stem._forward_hooks) == watched
        F.cross_entropy(model(batch[0]), batch[1])
        observer.finish()
    unseen = BatchObserver()
    for _ in range(3):
        assert not unseen.is_done
        unseen.start(model, batch)
        unseen.finish()
    assert unseen.is_done


def test_a_compiled_part_gets_no_hooks() -> None:
    compiled: Any = torch.compile(Network(), backend="eager")
    model = nn.Sequential(compiled)
    observer = BatchObserver()
    observer.start(model, (pixels(), CLASSES))
    assert [bool(module._forward_hooks) for module in model.modules()] == [True] + [False] * 4
    observer.close()
    assert not model._forward_hooks


def test_a_batch_without_the_entry_is_read_by_its_usual_keys() -> None:
    layout, x = BatchLayout(("scan",), ("kind",)), pixels()
    other = {"image": x, "label": CLASSES}
    images, labels = images_and_labels(other, layout=layout)
    assert images is x
    assert labels is CLASSES
    assert inputs_to_show(other, layout) is x
    assert entry_at(other, ("label", "x")) is None


def test_the_only_images_of_a_batch_need_no_usual_key() -> None:
    x = pixels()
    assert images_and_labels({"scan": x, "weight": torch.rand(N), "label": CLASSES})[0] is x


NONE = -(2**31)


@pytest.mark.parametrize(
    ("labels", "options", "classes"),
    [
        (torch.tensor([2, -100]), {}, [2, -100]),
        (torch.tensor([2, 255]), {"ignore_index": 255}, [2, -1]),
        (torch.tensor([[1], [0]]), {}, [1, 0]),
        (torch.tensor([1.0, 0.25, float("nan")]), {}, [1, NONE, NONE]),
        (torch.tensor([0.9, 0.1]), {"loss": "binary_cross_entropy_with_logits"}, [1, 0]),
        (torch.tensor([[0, 1, 0], [1, 1, 0], [0, 0, 1]]), {}, [1, NONE, 2]),
        (torch.tensor([[0.05, 0.9, 0.05]]), {}, [1]),
    ],
)
def test_labels_of_a_batch_name_classes(labels: Tensor, options: Any, classes: list[int]) -> None:
    named = class_labels(labels, **options)
    assert named is not None
    assert named.dtype == torch.int64
    assert named.tolist() == classes


def test_images_and_scalars_are_no_labels() -> None:
    assert class_labels(pixels()) is None
    assert class_labels(torch.tensor(1)) is None


def test_fractions_are_those_of_a_regression_unless_a_binary_loss_smooths_them() -> None:
    assert name_no_classes(torch.tensor([0.5, 1.0]))
    assert not name_no_classes(torch.tensor([0.0, 1.0]))
    assert not name_no_classes(torch.tensor([0.9, 0.1]), loss="binary_cross_entropy_with_logits")


def test_a_batch_without_the_class_of_each_pixel_says_what_was_got() -> None:
    layout = BatchLayout(inputs=("x",), labels=("y",), dense=True)
    with pytest.raises(CaptureError, match=r"the class of each token \(N, T\) or pixel .* as targets. .*`inputs="):
        images_and_labels({"x": pixels(), "y": CLASSES}, layout=layout)
