"""The explanations of some samples in one epoch, as scalars, arrays and rows of a picture."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from dynalens.attribution import Explanation
from dynalens.dynamics import Array
from dynalens.explanations.files import packed_maps
from dynalens.explanations.names import caption, id_arrays
from dynalens.explanations.task import Task
from dynalens.faithfulness import Faithfulness, class_probabilities, tie_fraction
from dynalens.observation import is_tokens
from dynalens.pictures import Decode, ExplanationRow, Normalisation, Sentences, Shown, class_name, shown_inputs

ClassName = Callable[[int, Sequence[str] | None], str]
"""Returns the name of a class, given its number and the names of all classes if there are any."""

RANDOM = "random"
_DRAWN_POINTS = 33


@dataclass(frozen=True)
class ExplanationResult:
    """Maps of some samples, and the metrics of these maps.

    Attributes:
        images: Shape ``(N, C, *spatial)``, or tokens ``(N, T)``.
        labels: Shape ``(N,)``, the given classes.
        targets: Shape ``(N,)``, the explained classes.
        explanation: The maps as the methods return them, and the logits.
        relevance: For each method, one relevance per pixel, ``(N, *spatial)``, or per token.
        faithfulness: Curves and metrics of each method, and of ``random`` if there is a control.
        ids: Ids of the samples, if they are known.
        table: Whether the images are rows of a table, (N, 1, F).
        task: What is known of the model's task.
        units: Name of the explained token or region of each sample; empty if samples have one class.
        places: Position of each explained token in the targets; empty if there are none.
        is_given: Shape ``(N,)``, with several labels: whether the one in ``labels`` was given; None: all were.
    """

    images: Tensor
    labels: Tensor
    targets: Tensor
    explanation: Explanation
    relevance: dict[str, Tensor]
    faithfulness: dict[str, Faithfulness]
    ids: Sequence[int | str] | None = None
    table: bool = False
    task: Task = field(default_factory=Task)
    is_given: Tensor | None = None
    units: Sequence[str] = ()
    places: Sequence[int] = ()

    def of_units(self, units: Mapping[int | str, tuple[int, int]] | None) -> "ExplanationResult":
        """Return the result with the information whether each doubtful label was given.

        The same result if there are none.
        """
        if not self.task.independent or not units or self.ids is None:
            return self
        return replace(self, is_given=torch.tensor([units[sample][1] for sample in self.ids]))

    def means(self) -> dict[str, float]:
        """Return the mean over samples of each ``<method>/<metric>``.

        Samples for which it is not defined are left out.
        """
        return {
            f"{method}/{metric}": float(values.nanmean())
            for method, metrics in self.faithfulness.items()
            for metric, values in metrics.values.items()
        }

    def arrays(self, prefix: str = "") -> dict[str, Array]:
        """Return all arrays to keep on disk, by name."""
        arrays = {"labels": self.labels, "targets": self.targets, "logits": self.explanation.logits}
        arrays |= {f"{method}.tie_fraction": tie_fraction(maps) for method, maps in self.relevance.items()}
        for method, metrics in self.faithfulness.items():
            arrays |= {f"{method}.{metric}.values": values for metric, values in metrics.values.items()}
            for name, curve in metrics.curves.items():
                arrays[f"{method}.{name}.curves"] = curve.values
                arrays[f"{method}.{name}.fractions"] = curve.fractions
                arrays[f"{method}.{name}.errors"] = curve.errors
        ids = {} if self.ids is None else {prefix + name: array for name, array in id_arrays(self.ids).items()}
        return ids | {prefix + name: values.cpu().numpy() for name, values in arrays.items()}

    def kept_maps(self) -> dict[str, Array]:
        """Return the maps to keep on disk, by name, in the form of :func:`packed_maps`.

        Maps of a layer stay at its resolution. The others have one relevance per pixel, column or token.
        """
        arrays: dict[str, Array] = {}
        for method, relevance in self.relevance.items():
            maps = self.explanation.maps[method]
            arrays |= packed_maps(method, maps if maps.ndim == relevance.ndim else relevance)
        return arrays

    def fractions(self) -> Tensor:
        """Return the abscissa on which all curves are drawn.

        That of the curves, or an even one if samples have their own.
        """
        curves = [curve for metrics in self.faithfulness.values() for curve in metrics.curves.values()]
        if curves and curves[0].fractions.ndim == 1:
            return curves[0].fractions
        return torch.linspace(0, 1, _DRAWN_POINTS, dtype=torch.float64)

    def rows(
        self,
        fractions: Tensor,
        explained_for: str = "",
        *,
        names: Sequence[str] | None = None,
        normalisation: Normalisation | None = None,
        decode: Decode | None = None,
    ) -> list[ExplanationRow]:
        """Return one row of the picture per sample, with its curves at these fractions.

        Args:
            fractions: Abscissa of the curves.
            explained_for: "label" or "prediction", the class for which suspects are explained; empty for other samples.
            names: Name of each class.
            normalisation: Of the inputs.
            decode: From a token to its word.
        """
        sentences = self._sentences(decode)
        pictures = sentences.words() if is_tokens(self.images) else self._pictures(normalisation)
        curves, areas = self._curves(fractions), self._areas()
        controls = curves.pop(RANDOM, {})
        relevance = {method: middle_slices(maps).cpu().numpy() for method, maps in self.relevance.items()}
        return [
            ExplanationRow(
                image=pictures[i],
                label=label,
                predicted=predicted,
                p_label=p_label,
                is_correct=None if self.task.numbers else label == predicted,
                note=self._note(i, "suspect" if explained_for else "sample"),
                explained_for=explained_for and self._explained_for(i, explained_for),
                maps={method: maps[i] for method, maps in relevance.items()},
                curves=_values_of_row(curves, i),
                areas=_values_of_row(areas, i),
                controls={metric: values[i] for metric, values in controls.items()},
            )
            for i, (label, predicted, p_label) in enumerate(self._labels(names, sentences.name))
        ]

    def _curves(self, fractions: Tensor) -> dict[str, dict[str, Array]]:
        """Return, by method and metric, the curves of all samples at these fractions."""
        return {
            method: {name: curve.resampled(fractions).cpu().numpy() for name, curve in metrics.curves.items()}
            for method, metrics in self.faithfulness.items()
        }

    def _areas(self) -> dict[str, dict[str, list[float]]]:
        """Return, by method and metric, the areas of the curves of all samples; not those of the random control."""
        return {
            method: {name: curve.areas.tolist() for name, curve in metrics.curves.items()}
            for method, metrics in self.faithfulness.items()
            if method != RANDOM
        }

    def _note(self, row: int, kind: str) -> str:
        """Return the id of a sample and the name of the token or region that was explained, as far as known."""
        sample = "" if self.ids is None else caption(self.ids[row], kind)
        return ", ".join(words for words in (sample, *self.units[row : row + 1]) if words)

    def _explained_for(self, row: int, otherwise: str) -> str:
        """Return "prediction" if the label was not given: the map shows what speaks for the label."""
        return otherwise if self.is_given is None or self.is_given[row] else "prediction"

    def _labels(self, names: Sequence[str] | None, name: ClassName) -> list[tuple[str, str, float]]:
        """Return the names of each sample's given and predicted label, and the probability of the given one."""
        if self.task.numbers:
            outputs = self.explanation.logits.gather(1, self.targets.unsqueeze(1)).squeeze(1).tolist()
            return [(output := f"output {value:.4g}", output, math.nan) for value in outputs]
        p = class_probabilities(self.explanation.logits, independent=self.task.independent)
        p_label = p.gather(1, self.labels.unsqueeze(1)).squeeze(1).tolist()
        labels = self.labels.tolist()
        if not self.task.independent:
            predicted = [name(label, names) for label in p.argmax(dim=1).tolist()]
            return list(zip([name(label, names) for label in labels], predicted, p_label, strict=True))
        bits = [1] * len(labels) if self.is_given is None else self.is_given.tolist()
        return [
            (_presence(name, bool(bit)), _presence(name, p_k > 0.5), p_k if bit else 1 - p_k)
            for name, bit, p_k in zip([class_name(label, names) for label in labels], bits, p_label, strict=True)
        ]

    def _sentences(self, decode: Decode | None) -> Sentences:
        """Return the samples as sentences, without any if they are not tokens."""
        tokens = self.images if is_tokens(self.images) else self.images[:0]
        ids = (tokens if self.task.padding is None else tokens.masked_fill(tokens == self.task.padding, -1)).tolist()
        places: Sequence[int | None] = self.places[: len(ids)] or [None] * len(ids)  # of signals it is in words
        return Sentences(ids, places, self.labels.tolist()[: len(ids)], decode)

    def _pictures(self, normalisation: Normalisation | None) -> Sequence[Shown]:
        return shown_inputs(self.images.squeeze(1) if self.table else self.images, normalisation)


def _presence(name: str, is_there: bool) -> str:
    return name if is_there else f"no {name}"


def middle_slices(maps: Tensor) -> Tensor:
    """Return the slice of maps (N, D, H, W) that pictures of volumes show. Other maps are returned unchanged."""
    return maps[:, maps.shape[1] // 2] if maps.ndim == 4 else maps


def _values_of_row(values: Mapping[str, Mapping[str, Any]], row: int) -> dict[str, dict[str, Any]]:
    """Return the values of one sample, by method and metric."""
    return {method: {metric: samples[row] for metric, samples in metrics.items()} for method, metrics in values.items()}
