"""How easily the predictions of the explained samples change, as scalars, arrays and a picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor, nn

from dynalens.dynamics import Array
from dynalens.explanations.forms import Forward
from dynalens.notices import warn
from dynalens.pictures import Normalisation, Shown, class_name, labelled_grid, shown_inputs
from dynalens.robustness import ATTACKS, SmallestStep, corrupted_margins, smallest_step

CLEAN = "none"
"""Stands for images without a corruption."""
_GREY = 0.5


@dataclass(frozen=True)
class Robustness:
    """The effect of attacks and corruptions on some samples.

    Attributes:
        images: Shape ``(N, C, *spatial)``.
        labels: Shape ``(N,)``.
        steps: For each attack, the smallest steps that change predictions.
        margins: For each corruption, and for "none" beside them, margins of the labels, ``(N,)``.
        table: Whether the images are rows of a table, (N, 1, F).
    """

    images: Tensor
    labels: Tensor
    steps: Mapping[str, SmallestStep]
    margins: Mapping[str, Tensor]
    table: bool = False

    def scalars(self) -> dict[str, float]:
        """Return scalars ``<attack>/changed``, ``<attack>/median_step``, ``<corruption>/accuracy`` and ``.../margin``.

        The median is left out if half of the samples have no step.
        """
        scalars: dict[str, float] = {}
        for attack, smallest in self.steps.items():
            scalars[f"{attack}/changed"] = float(smallest.changed.float().mean())
            median = float(smallest.steps.median())
            scalars |= {f"{attack}/median_step": median} if median < float("inf") else {}
        for corruption, margins in self.margins.items():
            scalars[f"{corruption}/accuracy"] = float((margins > 0).float().mean())
            scalars[f"{corruption}/margin"] = float(margins.mean())
        return scalars

    def arrays(self) -> dict[str, Array]:
        """Return the values of each sample, named ``<check>.<metric>.values`` like those of maps."""
        arrays = {f"{attack}.smallest_step.values": smallest.steps for attack, smallest in self.steps.items()}
        arrays |= {f"{attack}.changed_to.values": smallest.changed_to for attack, smallest in self.steps.items()}
        arrays |= {f"{corruption}.margin.values": margins for corruption, margins in self.margins.items()}
        return {name: values.cpu().numpy() for name, values in arrays.items()}

    def picture(
        self, title: str, names: Sequence[str] | None = None, normalisation: Normalisation | None = None
    ) -> Image.Image | None:
        """Return a picture with a row per sample: the input, and for each attack the changed input and the change."""
        if not self.steps:
            return None
        samples = {"": self._pictures(self.images, normalisation)}
        for attack, smallest in self.steps.items():
            samples[attack] = self._pictures(smallest.images, normalisation)
            samples[f"{attack}: change"] = self._pictures(_visible(smallest.images - self.images), None)
        rows = [
            (self._captions(number, names), [column[number] for column in samples.values()])
            for number in range(len(self.images))
        ]
        attacks = ", ".join(attack.replace("_", "-") for attack in self.steps)
        return labelled_grid(rows, title, f"input; changed input and step by {attacks}")

    def _captions(self, number: int, names: Sequence[str] | None) -> list[str]:
        captions: list[str] = []
        for smallest in self.steps.values():
            predicted, changed_class = (
                class_name(int(classes[number]), names) for classes in (smallest.predicted, smallest.changed_to)
            )
            captions = captions or [predicted]
            changes = bool(smallest.changed[number])
            captions += [changed_class, f"{float(smallest.steps[number]):.2g}"] if changes else ["none", ""]
        return captions

    def _pictures(self, images: Tensor, normalisation: Normalisation | None) -> Sequence[Shown]:
        return shown_inputs(images.squeeze(1) if self.table else images, normalisation)


def measured_robustness(
    model: nn.Module,
    forward: Forward,
    images: Tensor,
    labels: Tensor,
    checks: Sequence[str],
    *,
    seed: int = 0,
    chunk_size: int | None = None,
) -> Robustness:
    """Return the effect of these attacks and corruptions on the samples.

    Args:
        model: The module.
        forward: Function that computes the logits.
        images: Shape ``(N, C, *spatial)``.
        labels: Shape ``(N,)``.
        checks: Names of attacks and corruptions.
        seed: Seed of noise and random directions.
        chunk_size: Images in one forward pass.
    """
    steps = {
        check: smallest_step(model, images, attack=check, seed=seed, forward=forward)
        for check in checks
        if check in ATTACKS
    }
    corruptions = [check for check in checks if check not in ATTACKS]

    def margins(corruption: str | None) -> Tensor:
        return corrupted_margins(model, images, labels, corruption, seed=seed, forward=forward, chunk_size=chunk_size)

    margins_of = {corruption: margins(corruption) for corruption in corruptions}
    return Robustness(images, labels, steps, {CLEAN: margins(None), **margins_of} if corruptions else {})


def none_of(checks: Sequence[str]) -> tuple[str, ...]:
    """Return no checks, and warn if some were asked for: samples with several labels and regressions have none."""
    if checks:
        warn(
            f"These robustness checks are left out: {', '.join(checks)}. They need one predicted class, which "
            "models of several labels and regressions do not have. Pass `robustness=()` to silence this warning."
        )
    return ()


def _visible(change: Tensor) -> Tensor:
    """Return changes in [0, 1], each divided by its largest value; grey means no change."""
    dims = tuple(range(1, change.ndim))
    return _GREY + _GREY * change / change.abs().amax(dim=dims, keepdim=True).clamp(min=torch.finfo(change.dtype).tiny)
