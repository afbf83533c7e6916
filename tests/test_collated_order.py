"""The order of a batch's rows is found by comparing them with the samples, or said to be unknown."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import default_collate

from dynalens import SampleIdentityError
from dynalens.datasets import position_of
from dynalens.identity.collate_order import OrderedCollate, is_in_order
from dynalens.identity.order import order_of_rows

IMAGES = torch.rand(6, 1, 5, 5, generator=torch.Generator().manual_seed(2))
LABELS = [1, 0, 1, 2, 0, 1]
LENGTHS = [3, 7, 2, 7, 5, 4]
TOKENS = [[10 * i + k for k in range(length)] for i, length in enumerate(LENGTHS)]


@dataclass
class Batch:
    inputs: Tensor
    classes: Tensor


def brightness(sample: Any) -> float:
    return float(sample[0].sum())


BY_BRIGHTNESS = sorted(range(6), key=lambda i: float(IMAGES[i].sum()))
BY_LENGTH = sorted(range(6), key=LENGTHS.__getitem__, reverse=True)


def pairs() -> list[Any]:
    return [(IMAGES[i], LABELS[i]) for i in range(6)]


def dicts() -> list[Any]:
    return [{"input_ids": list(TOKENS[i]), "label": LABELS[i]} for i in range(6)]


def sorted_pairs(samples: list[Any]) -> Any:
    return default_collate(sorted(samples, key=brightness))


def sorted_in_place(samples: list[Any]) -> Any:
    samples.sort(key=brightness)
    return {"pixels": torch.stack([2 * x for x, _ in samples]), "y": torch.tensor([y for _, y in samples])}


def without_dark(samples: list[Any]) -> Any:
    return default_collate([sample for sample in samples if brightness(sample) > 12])


def padded(samples: list[Any], *, end: bool = False) -> Any:
    """Sort by length, take the labels out of the samples, pad."""
    samples = sorted(samples, key=lambda sample: len(sample["input_ids"]), reverse=True)
    labels = torch.tensor([sample.pop("label") for sample in samples])
    rows = [torch.tensor(sample["input_ids"]) for sample in samples]
    side = "left" if end else "right"
    return {"input_ids": pad_sequence(rows, True, padding_value=-1, padding_side=side), "labels": labels}


def as_dataclass(samples: list[Any]) -> Any:
    chosen = [samples[i] for i in (2, 0, 1, 5, 4, 3)]
    return Batch(torch.stack([x for x, _ in chosen]), torch.tensor([y for _, y in chosen]))


def objects() -> list[Any]:
    return [SimpleNamespace(x=IMAGES[i][None], y=torch.tensor(LABELS[i : i + 1])) for i in range(6)]


def concatenated(samples: list[Any]) -> Any:
    """As graphs are put into one, whose nodes have no axis of the batch."""
    chosen = [samples[i] for i in (2, 0, 1, 5, 4, 3)]
    return Batch(torch.cat([each.x for each in chosen]), torch.cat([each.y for each in chosen]))


def normalised(samples: list[Any]) -> Any:
    """Inputs that are no sample's numbers, in order."""
    return (torch.stack([x for x, _ in samples]) - 0.5) / 3, torch.tensor([y for _, y in samples])


def mapped(samples: list[Any]) -> Any:
    """Other classes, in order."""
    return (torch.stack([x for x, _ in samples]) - 0.5) / 3, torch.tensor([2 - y for _, y in samples])


FOLLOWED: dict[str, tuple[Callable[[], list[Any]], Callable[[Any], Any], list[int]]] = {
    "sorted": (pairs, sorted_pairs, BY_BRIGHTNESS),
    "sorted in place": (pairs, sorted_in_place, BY_BRIGHTNESS),
    "some left out": (pairs, without_dark, [i for i in range(6) if float(IMAGES[i].sum()) > 12]),
    "padded": (dicts, padded, BY_LENGTH),
    "padded at the beginning": (dicts, lambda samples: padded(samples, end=True), BY_LENGTH),
    "a dataclass": (pairs, as_dataclass, [2, 0, 1, 5, 4, 3]),
    "objects": (objects, concatenated, [2, 0, 1, 5, 4, 3]),
    "one class": (lambda: [(x, 0) for x, _ in pairs()], sorted_pairs, BY_BRIGHTNESS),
    "None left out": (
        lambda: [None, *pairs()[1:]], lambda samples: default_collate([s for s in samples if s is not None]),
        [1, 2, 3, 4, 5],
    ),
    "one sample twice": (
        lambda: [*pairs(), pairs()[0]], sorted_pairs,
        sorted([*range(6), 6], key=lambda i: float(IMAGES[i % 6].sum())),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("samples", "collate", "expected"), FOLLOWED.values(), ids=FOLLOWED.keys())
def test_rows_in_another_order_are_followed(
    samples: Callable[[], list[Any]], collate: Callable[[Any], Any], expected: list[int]
) -> None:
    state, drawn = torch.get_rng_state(), random.getstate()
    collated = OrderedCollate(collate)(samples())
    assert (collated.order, collated.problem) == (expected, "")
    assert torch.equal(state, torch.get_rng_state())
    assert drawn == random.getstate()
    plain = collate(samples())
    for ours, theirs in zip(_tensors(collated.batch), _tensors(plain), strict=True):
        assert torch.equal(ours, theirs)


def _tensors(batch: Any) -> list[Tensor]:
    parts = batch.values() if isinstance(batch, dict) else vars(batch).values() if isinstance(batch, Batch) else batch
    return list(parts)


IN_ORDER: dict[str, tuple[Callable[[], list[Any]], Callable[[Any], Any]]] = {
    "torch's": (pairs, default_collate),
    "normalised": (pairs, normalised),
    "other classes": (pairs, mapped),
    "nothing that could be compared": (pairs, lambda samples: {"n": len(samples)}),
    "strings": (lambda: [{"text": f"a {i}", "y": i % 2} for i in range(6)], default_collate),
    "several rows for a sample": (pairs, lambda samples: default_collate(samples * 2)),
    "no list": (lambda: torch.zeros(3, 2), lambda samples: samples),  # type: ignore[return-value, dict-item]
}


@pytest.mark.parametrize(("samples", "collate"), IN_ORDER.values(), ids=IN_ORDER.keys())
def test_rows_in_order_stay_in_order(samples: Callable[[], list[Any]], collate: Callable[[Any], Any]) -> None:
    collated = OrderedCollate(collate)(samples())
    assert (collated.order, collated.problem) == (None, "")


ODD: dict[str, Callable[[int], Any]] = {
    "structures here and there": lambda i: {"place": i} if i else 0,
    "objects here and there": lambda i: object if i else 0,
    "dates": lambda i: np.datetime64("2026-01-01"),
    "integers of more than 64 bits": lambda i: 2**64 + i,
    "lists of such": lambda i: [2**64 + i],
    "nested tensors": lambda i: torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]),
    "complex numbers": lambda i: np.complex64(1j),
    "float8": lambda i: torch.ones(3).to(torch.float8_e4m3fn),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("value", ODD.values(), ids=ODD.keys())
def test_values_that_cannot_be_compared_are_passed_over(value: Callable[[int], Any]) -> None:
    def collate(samples: list[Any]) -> Any:
        samples = sorted(samples, key=brightness)
        return *default_collate([sample[:2] for sample in samples]), [sample[2] for sample in samples]

    collated = OrderedCollate(collate)([(*pair, value(i)) for i, pair in enumerate(pairs())])
    assert (collated.order, collated.problem) == (BY_BRIGHTNESS, "")


def test_an_order_that_numbers_show_is_looked_for_after_batches_that_were_in_order() -> None:
    calls = iter([default_collate] * 4 + [sorted_pairs] * 2)
    collate = OrderedCollate(lambda samples: next(calls)(samples))
    assert [collate(pairs()).order for _ in range(6)] == [None] * 4 + [BY_BRIGHTNESS] * 2


def test_an_order_that_only_labels_show_is_not_guessed() -> None:
    def collate(samples: list[Any]) -> Any:
        return normalised(sorted(samples, key=brightness))

    collated = OrderedCollate(collate)(pairs())
    assert "several could be the same one" in collated.problem
    error = collated.indices_of_rows(np.arange(6))
    assert isinstance(error, SampleIdentityError)
    assert "the collate function to keep the order" in str(error)
    assert "`IndexedDataset`" in str(error)


LISTS: dict[str, Callable[[list[Any]], Any]] = {
    "the samples themselves": lambda samples: samples,
    "rows like them": lambda samples: [(2 * x, y, path) for x, y, path in samples],
    "columns of numbers": lambda samples: tuple(zip(*[(x, torch.tensor(y), p) for x, y, p in samples], strict=True)),
}


@pytest.mark.parametrize("form", LISTS.values(), ids=LISTS.keys())
def test_rows_that_are_no_tensors_are_followed(form: Callable[[list[Any]], Any]) -> None:
    """Of detectors, say: a batch is a list of samples, or has a list of each of their entries."""
    samples = [(x, y, f"{i}.png") for i, (x, y) in enumerate(pairs())]
    assert OrderedCollate(form)(samples).order is None
    assert OrderedCollate(lambda drawn: form(sorted(drawn, key=brightness)))(samples).order == BY_BRIGHTNESS


def detections() -> list[Any]:
    """Images of one channel, so of one row, beside targets of their own, of which some differ in length."""
    return [(x, {"labels": torch.tensor([y]), "boxes": torch.rand(1 + y, 4)}) for x, y in pairs()]


def copied(samples: list[Any]) -> list[Any]:
    return [(2 * x, {name: value.clone() for name, value in target.items()}) for x, target in samples]


IN_LISTS: dict[str, Callable[[list[Any]], Any]] = {
    "a list of images and one of targets": lambda samples: tuple(zip(*samples, strict=True)),
    "by name": lambda samples: {"x": [x for x, _ in samples], "targets": {"of": [target for _, target in samples]}},
    "beside a batch of images": lambda samples: (torch.stack([x for x, _ in samples]), [t for _, t in samples]),
}


@pytest.mark.parametrize("form", IN_LISTS.values(), ids=IN_LISTS.keys())
def test_samples_in_lists_are_followed(form: Callable[[list[Any]], Any]) -> None:
    for samples in (detections(), detections()[:3], detections()[:2], detections()[:1]):
        in_order = OrderedCollate(form)(samples)
        assert (in_order.order, in_order.problem) == (None, "")
    collated = OrderedCollate(lambda drawn: form(sorted(drawn, key=brightness)))(detections())
    assert (collated.order, collated.problem) == (BY_BRIGHTNESS, "")


def test_copies_of_samples_in_lists_are_in_order_where_their_labels_are() -> None:
    form = IN_LISTS["a list of images and one of targets"]
    collated = OrderedCollate(lambda samples: form(copied(samples)))(detections())
    assert (collated.order, collated.problem) == (None, "")
    collated = OrderedCollate(lambda samples: form(copied(samples[::-1])))(detections())
    assert "several could be the same one" in collated.problem


def test_samples_that_cannot_be_looked_at_do_not_stop_the_loader() -> None:
    class Secret(dict[str, int]):
        def items(self) -> Any:
            raise OSError("locked")

    collated = OrderedCollate(len)([Secret(y=1), Secret(y=2)])
    assert collated.batch == 2
    assert "samples cannot be looked at (OSError: locked)" in str(collated.indices_of_rows(np.arange(2)))


def test_arrays_that_all_samples_share_tell_no_order() -> None:
    def collate(samples: list[Any]) -> Any:
        x, y, mask = default_collate(sorted(samples, key=brightness))
        return x * 0.5 + 1, y, mask

    collated = OrderedCollate(collate)([(x, y, torch.ones(2, 2)) for x, y in pairs()])
    assert "several could be the same one" in collated.problem


def test_two_classes_in_turn_that_come_backwards_are_another_order() -> None:
    samples = [(torch.rand(3), i % 2) for i in range(4)]
    collated = OrderedCollate(lambda rows: (torch.zeros(4, 1), torch.tensor([y for _, y in rows[::-1]])))(samples)
    assert "several could be the same one" in collated.problem


def packed(samples: list[Any], rows: int, *, end_of_text: int | None = None) -> Any:
    """Tokens of several samples in each row, one after another, filled up at the end."""
    ends = [] if end_of_text is None else [end_of_text]
    parts = [[t for s in samples[row::rows] for t in (*s["input_ids"], *ends)] for row in range(rows)]
    return {"input_ids": pad_sequence([torch.tensor(part) for part in parts], batch_first=True)}


@pytest.mark.parametrize("end_of_text", [None, 99])
@pytest.mark.parametrize("rows", [1, 2])
def test_rows_that_hold_several_samples_are_refused(rows: int, end_of_text: int | None) -> None:
    collated = OrderedCollate(lambda samples: packed(samples, rows, end_of_text=end_of_text))(dicts())
    error = collated.indices_of_rows(np.arange(6))
    assert isinstance(error, SampleIdentityError)
    assert "a row holds several samples, one after another. Let it fill them up to one length" in str(error)


@pytest.mark.parametrize("end", [False, True])
def test_rows_that_are_filled_up_may_be_fewer_than_the_samples(end: bool) -> None:
    collated = OrderedCollate(lambda samples: padded(samples[1::2], end=end))(dicts())
    assert collated.order is not None
    assert sorted(collated.order) == [1, 3, 5]


def test_samples_that_the_collate_function_puts_in_are_noticed() -> None:
    def refilled(samples: list[Any]) -> Any:
        return default_collate([*samples[:4], (torch.ones(1, 5, 5), 2), samples[5]])

    assert "some are not" in OrderedCollate(refilled)(pairs()).problem


def test_short_rows_that_are_alike_by_accident_are_no_samples_at_their_places() -> None:
    """A size of two ones looks like the first two of three labels in most samples."""
    bits = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0], [1.0, 0.0, 0.0]]).repeat(2, 1)
    samples = [(x, torch.ones(2), bits[i]) for i, (x, _) in enumerate(pairs())]
    kept = [0, 1, 3, 4, 5]
    collated = OrderedCollate(lambda drawn: default_collate([drawn[i] for i in kept]))(samples)
    assert (collated.order, collated.problem) == (kept, "")


def test_labels_that_tell_all_samples_apart_give_the_order() -> None:
    assert order_of_rows({(1,): [4, 2, 9]}, {("y",): torch.tensor([2, 4, 9])}) == [1, 0, 2]


def test_only_torchs_own_functions_are_known_to_keep_the_order() -> None:
    assert is_in_order(default_collate)
    assert not is_in_order(sorted_pairs)


class Draw(NamedTuple):
    """Names its numbers; the position is the second."""

    size: int
    position: int


@pytest.mark.parametrize(
    ("key", "position"),
    [(3, 3), (np.int32(-2), -2), (torch.tensor(4), 4), ((5, 320), 5), ((True, 6), 6), ((7, (32, 48)), 7),
     ({"index": 8, "size": 32}, 8), ([9, "crop"], 9), (Draw(32, 10), 10), (SimpleNamespace(idx=-1), -1)],
)  # fmt: skip
def test_the_position_is_found_in_what_samplers_draw(key: Any, position: int) -> None:
    assert position_of(key) == position


@pytest.mark.parametrize("key", ["a", 1.5, {"bounds": (0.0, 1.0)}, (0.5, 1.5), None])
def test_a_draw_without_a_position_raises(key: Any) -> None:
    with pytest.raises(TypeError, match="Expected the sampler to draw integers, the positions in the dataset"):
        position_of(key)
