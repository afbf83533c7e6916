"""Explain one token or region of each sample, for networks that have logits for each token or pixel."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dynalens.dynamics import Array
from dynalens.explanations.dense import (
    ExplainedUnit,
    by_class,
    doubtful_label,
    doubtful_region,
    doubtful_token,
    first_unit,
    joined_results,
    single,
)
from dynalens.explanations.explainer import Explainer
from dynalens.explanations.result import ExplanationResult, middle_slices
from dynalens.explanations.samples import Passed, PassedSuspects, Units
from dynalens.observation import undisturbed


def explained_units(
    explainer: Explainer, model: nn.Module, samples: Passed, *, predicted: bool = False, regions: Tensor | None = None
) -> ExplanationResult:
    """Return maps and metrics of the first token of each sample, or of the pixels of its most frequent class.

    Args:
        explainer: Computes them sample by sample, because each sample has its own unit.
        model: The module.
        samples: Ids, inputs, and labels ``(N, T)`` or ``(N, H, W)``, of several labels ``(N, K, T)`` or
            ``(N, K, H, W)``; negative where nothing counts.
        predicted: Whether to explain the predicted classes instead.
        regions: See :meth:`Explainer.explanation_of`.
    """
    results, units = [], []
    for row, (ids, (inputs, labels)) in enumerate(single(samples[0], samples[1], samples[2])):
        unit = first_unit(labels[0], multi_label=explainer.task.independent)
        of_row = None if regions is None else regions[row : row + 1]
        with _explains(explainer, unit):
            sample = ids, inputs, labels.new_tensor([unit.label])
            results.append(explainer.explanation_of(model, sample, predicted=predicted, regions=of_row))
        units.append(unit)
    return joined_results(results, units)


def explained_suspects(
    explainer: Explainer, model: nn.Module, suspects: PassedSuspects, doubtful_units: Units
) -> dict[str, ExplanationResult]:
    """Return maps and metrics of each suspect's doubtful unit, for its given and for the predicted class.

    Args:
        explainer: Computes them.
        model: The module.
        suspects: Ids, inputs and labels.
        doubtful_units: Place and class of the worst unit of each suspect in the record, by its id. Of several labels:
            the label, and whether it was given.
    """
    results, units = [], []
    for ids, (inputs, labels) in single(suspects[0], suspects[1], suspects[2]):
        assert ids is not None
        unit = _doubtful_unit(explainer, model, inputs, labels, doubtful_units.get(ids[0]))
        with _explains(explainer, unit):
            results.append(explainer.explained_twice(model, (ids, inputs, labels.new_tensor([unit.label]))))
        units.append(unit)
    return {name: joined_results([result[name] for result in results], units) for name in results[0]}


def contrasted_units(
    explainer: Explainer,
    model: nn.Module,
    suspects: PassedSuspects,
    classes: Mapping[Any, tuple[int, int]],
    method: str,
) -> dict[Any, Array]:
    """Return maps of what speaks for the suggested class and against the given one, where the network contradicts it.

    Args:
        explainer: Computes them.
        model: The module.
        suspects: Ids, inputs and masks; there are no such maps of tokens.
        classes: Suggested and given class by the sample's id.
        method: Name of the method.
    """
    maps: dict[Any, Array] = {}
    for ids, (inputs, labels) in single(suspects[0], suspects[1], suspects[2]):
        if ids is None or ids[0] not in classes:
            continue
        suggestion, label = classes[ids[0]]
        unit = _doubtful_unit(explainer, model, inputs, labels, (-1, label))
        pair = (labels.new_tensor([label]) for label in (suggestion, label))
        with _explains(explainer, unit):
            contrast = middle_slices(explainer.contrast_maps(model, inputs, *pair, method=method))
        maps[ids[0]] = contrast[0].float().cpu().numpy()
    return maps


def _doubtful_unit(
    explainer: Explainer, model: nn.Module, inputs: Tensor, labels: Tensor, doubtful_unit: tuple[int, int] | None
) -> ExplainedUnit:
    """Return the doubtful unit of one sample, by place and class, or label, of the worst one in the record."""
    multi_label = explainer.task.independent
    if labels.ndim == 2:
        return doubtful_token(labels[0], doubtful_unit)
    run, images = explainer.units_forward(model, inputs)
    with undisturbed(model), torch.no_grad():
        logits = by_class(run(images), labels.shape[2:] if multi_label else labels.shape[1:])[0]
    if multi_label:
        return doubtful_label(labels[0], doubtful_unit or (-1, 0), logits)
    return doubtful_region(labels[0], -1 if doubtful_unit is None else doubtful_unit[1], logits)


@contextmanager
def _explains(explainer: Explainer, unit: ExplainedUnit) -> Iterator[None]:
    explainer.unit = unit
    try:
        yield
    finally:
        explainer.unit = None
