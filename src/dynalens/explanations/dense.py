"""Samples with a class for each token or pixel: which token or region of each sample is explained."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from dynalens.attribution import Explanation
from dynalens.explanations.result import ExplanationResult
from dynalens.faithfulness import Curve, Faithfulness
from dynalens.observation import unit_logits_in

Forward = Callable[[Tensor], object]
_LINEAR = {2: "bilinear", 3: "trilinear"}
"""Names of linear interpolation, by the axes of space."""


class ExplainedUnit(NamedTuple):
    """The token, or the region of pixels, of a sample that is explained.

    Attributes:
        label: The class that was given to it.
        region: Shape of the sample's targets, bool.
        words: Its name in captions.
        place: Position of a token in the targets; None for a region.
        is_given: Whether the data give it the label. With several labels, a missing label may be explained.
    """

    label: int
    region: Tensor
    words: str
    place: int | None = None
    is_given: bool = True

    def at_logits(self, shift: int, tokens: int) -> "ExplainedUnit":
        """Return a token at the position of the logits that predict it.

        Args:
            shift: Number of positions by which these logits come earlier.
            tokens: Number of tokens that the model is given.

        Example:
            >>> ExplainedUnit(0, torch.tensor([False, False, True]), "").at_logits(1, 2).region.tolist()
            [False, True]
        """
        return self if not shift else self._replace(region=F.pad(self.region[shift:], (0, shift))[:tokens])

    def logits(self, output: object) -> Tensor:
        """Return the logits of some samples, ``(N, K)``, as their mean over the region.

        K is 1 for masks with one logit.

        Args:
            output: What a model returns: logits ``(N, K, ...)``, ``(N, ..., K)``, or one for each unit ``(N, ...)``.

        Raises:
            ValueError: If they are not of the sample's units, or could be read both ways.

        Example:
            >>> unit = ExplainedUnit(0, torch.tensor([False, True, True]), "")
            >>> unit.logits(torch.tensor([[[5.0, 1.0, 3.0], [0.0, 2.0, 4.0]]])).tolist()
            [[2.0, 3.0]]
        """
        z = by_class(output, self.region.shape).flatten(2)
        return z[:, :, self.region.flatten().to(z.device)].mean(dim=2)


def by_class(output: object, shape: torch.Size) -> Tensor:
    """Return the logits that a model returns as ``(N, K, *shape)``.

    Logits of pixels that are coarser than the targets are interpolated linearly to their size, as training steps do.

    Raises:
        ValueError: If they are not of units of this shape, or could be read both ways.
    """
    z = unit_logits_in(output)
    if isinstance(z, Tensor):
        if z.shape[1:] == shape:
            return z.unsqueeze(1)
        second, is_last = z.shape[2:] == shape, z.shape[1:-1] == shape
        if second != is_last:
            return z if second else z.movedim(-1, 1)
        if len(shape) in _LINEAR and z.ndim == len(shape) + 2 and not second:
            return F.interpolate(z, size=shape, mode=_LINEAR[len(shape)])
    form = tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__
    raise ValueError(
        f"Expected the model to give a row of logits for each of {tuple(shape)} tokens or pixels, with classes on one "
        f"axis of another length, got {form}. Pass `inputs=` with a callable(batch) -> (images, classes), one class "
        "for each sample, and `forward=` with a callable(pl_module, images) that picks one row of logits."
    )


def first_unit(labels: Tensor, *, multi_label: bool = False) -> ExplainedUnit:
    """Return the unit that is explained in every epoch: the first token, or the pixels of the most frequent class.

    Only tokens that count are considered. Class 0, the background, is taken only if there is no other. With several
    labels, these are the pixels of the most frequent label, or all pixels if none is given. Of tokens, it is the first
    label of the first token that has any.

    Args:
        labels: Shape ``(T,)`` or ``(H, W)``, with several labels ``(K, T)`` or ``(K, H, W)``. Units with negative
            labels do not count; at least one counts.
        multi_label: Whether pixels or tokens have several labels.

    Example:
        >>> first_unit(torch.tensor([-1, 2, 0])).words, first_unit(torch.tensor([[0, 3], [0, 3]])).label
        ('token 1', 3)
        >>> first_unit(torch.tensor([[[0, 1]], [[1, 1]]]), multi_label=True).label
        1
    """
    if multi_label and labels.ndim == 2:
        levels = (labels == 1).int() + (labels >= 0).int()  # 2: given, 1: not given, 0: does not count
        place = int(levels.amax(dim=0).argmax())
        label = int(levels[:, place].argmax())
        return token(labels[label], place)._replace(label=label, is_given=bool(labels[label, place] == 1))
    if multi_label:
        label = int((labels == 1).flatten(1).sum(dim=1).argmax())
        pixels = labels[label] == 1
        has_pixels = bool(pixels.any())
        return region(pixels if has_pixels else (labels >= 0).any(dim=0), label)._replace(is_given=has_pixels)
    if labels.ndim == 1:
        return token(labels, int((labels >= 0).int().argmax()))
    positive_labels = labels[labels > 0]
    label = int(positive_labels.mode().values) if len(positive_labels) else 0
    return region(labels == label, label)


def token(labels: Tensor, place: int) -> ExplainedUnit:
    """Return the token at this place."""
    is_here = torch.arange(len(labels), device=labels.device) == place
    return ExplainedUnit(int(labels[place]), is_here, f"token {place}", place)


def region(pixels: Tensor, label: int, *, is_contradicted: bool = False) -> ExplainedUnit:
    """Return a region of pixels that have this class."""
    words = f"{int(pixels.sum())} {'contradicted ' if is_contradicted else ''}pixels"
    return ExplainedUnit(label, pixels, words)


def doubtful_token(labels: Tensor, doubtful_unit: tuple[int, int] | None) -> ExplainedUnit:
    """Return the token of a suspect that is in doubt.

    If the targets have moved since it was recorded, return the first one.

    Args:
        labels: Shape ``(T,)``; tokens with negative labels do not count.
        doubtful_unit: Position and class of the worst token in the record.

    Example:
        >>> doubtful_token(torch.tensor([-1, 4, 2]), (2, 2)).words, doubtful_token(torch.tensor([-1, 4, 2]), None).words
        ('token 2', 'token 1')
    """
    place, label = doubtful_unit or (-1, -1)
    is_given = 0 <= place < len(labels) and int(labels[place]) == label
    return token(labels, place) if is_given else first_unit(labels)


def doubtful_region(labels: Tensor, label: int, logits: Tensor) -> ExplainedUnit:
    """Return the region of a suspect that is in doubt: pixels of the doubted class that the network contradicts.

    If it contradicts none of them any more, these are all pixels of the class. If there are none, it is the first unit.

    Args:
        labels: Shape ``(H, W)``, negative where nothing counts.
        label: Class of the worst pixel in the record.
        logits: Shape ``(K, H, W)``.

    Example:
        >>> z = torch.tensor([[[2.0, 0.0]], [[1.0, 3.0]]])  # predicted: 0, 1
        >>> doubtful_region(torch.tensor([[0, 0]]), 0, z).region.tolist()
        [[False, True]]
    """
    pixels = labels == label
    if label < 0 or not bool(pixels.any()):
        return first_unit(labels)
    predicted = (logits[0] > 0).long() if len(logits) == 1 else logits.argmax(dim=0)
    is_wrong = pixels & (predicted.to(labels.device) != labels)
    return region(is_wrong, label, is_contradicted=True) if bool(is_wrong.any()) else region(pixels, label)


def doubtful_label(labels: Tensor, doubtful_unit: tuple[int, int], logits: Tensor) -> ExplainedUnit:
    """Return what is in doubt of a suspect with several labels.

    The pixels at which the network contradicts one of them.

    If it contradicts none any more, these are all pixels that have, or all that lack, the label. If there are none, it
    is the first unit. Of tokens, it is the one at which the network contradicts the label most.

    Args:
        labels: Shape ``(K, H, W)`` or ``(K, T)``, 0 or 1, negative where nothing counts.
        doubtful_unit: The worst pixel's or token's label in the record, and whether it was given there.
        logits: Same shape.

    Example:
        >>> labels, z = torch.tensor([[[0, 0, 1]]]), torch.tensor([[[2.0, -1.0, -3.0]]])
        >>> unit = doubtful_label(labels, (0, 0), z)  # missing at the first pixel
        >>> unit.region.tolist(), unit.is_given
        ([[True, False, False]], False)
    """
    label, bit = doubtful_unit
    pixels = labels[label] == bit
    if label < 0 or not bool(pixels.any()):
        return first_unit(labels, multi_label=True)
    if labels.ndim == 2:
        margins = (2 * bit - 1) * logits[label].float().to(labels.device)
        place = int(margins.masked_fill(~pixels, torch.inf).argmin())
        return token(labels[label], place)._replace(label=label, is_given=bool(bit))
    is_wrong = pixels & ((logits[label] > 0).to(labels.device) != bit)
    is_contradicted = bool(is_wrong.any())
    unit = region(is_wrong if is_contradicted else pixels, label, is_contradicted=is_contradicted)
    return unit._replace(is_given=bool(bit))


def joined_results(results: Sequence[ExplanationResult], units: Sequence[ExplainedUnit]) -> ExplanationResult:
    """Return the results of single samples as one, with the words for the unit of each."""
    first_result = results[0]
    explanations = [result.explanation for result in results]
    maps = {
        name: torch.cat([explanation.maps[name] for explanation in explanations])
        for name in _in_all([e.maps for e in explanations])
    }
    layer = explanations[0].target_layer
    names = _in_all([result.faithfulness for result in results])
    return replace(
        first_result,
        images=torch.cat([result.images for result in results]),
        labels=torch.cat([result.labels for result in results]),
        targets=torch.cat([result.targets for result in results]),
        explanation=Explanation(maps, torch.cat([explanation.logits for explanation in explanations]), layer),
        relevance={name: torch.cat([result.relevance[name] for result in results]) for name in maps},
        faithfulness={name: _joined_faithfulness([result.faithfulness[name] for result in results]) for name in names},
        ids=None if first_result.ids is None else [sample for result in results for sample in result.ids or ()],
        units=[unit.words for unit in units],
        is_given=torch.tensor([unit.is_given for unit in units]) if first_result.task.independent else None,
        places=[unit.place for unit in units if unit.place is not None],
    )


def _joined_faithfulness(parts: Sequence[Faithfulness]) -> Faithfulness:
    curves = {
        name: joined_curve([part.curves[name] for part in parts]) for name in _in_all([part.curves for part in parts])
    }
    names = _in_all([part.values for part in parts])
    return Faithfulness(curves, {name: torch.cat([part.values[name] for part in parts]) for name in names})


def joined_curve(curves: Sequence[Curve]) -> Curve:
    """Return curves of single samples as one curve. Those with fewer points repeat their last point."""
    evaluations = torch.cat([curve.evaluations for curve in curves])
    if curves[0].fractions.ndim == 1:
        return Curve(torch.cat([curve.values for curve in curves]), curves[0].fractions, evaluations)
    max_points = max(curve.values.shape[1] for curve in curves)
    values, fractions = (
        torch.cat(
            [torch.cat([points, points[:, -1:].expand(-1, max_points - points.shape[1])], dim=1) for points in parts]
        )
        for parts in ([curve.values for curve in curves], [curve.fractions for curve in curves])
    )
    return Curve(values, fractions, evaluations)


def _in_all(parts: Sequence[Mapping[str, object]]) -> list[str]:
    return [name for name in parts[0] if all(name in part for part in parts)]


def single(ids: Sequence[int | str] | None, *tensors: Tensor) -> Iterator[tuple[list[int | str] | None, list[Tensor]]]:
    """Yield the id and the rows of each sample as a batch of one."""
    for row in range(len(tensors[0])):
        yield None if ids is None else [ids[row]], [tensor[row : row + 1] for tensor in tensors]
