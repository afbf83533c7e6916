"""Why suspects are taken for another class than they are labelled: maps for the gallery."""

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dynalens.callbacks.budget import Budget
from dynalens.callbacks.chosen import ChosenSamples
from dynalens.callbacks.explaining import Explainer
from dynalens.callbacks.explanation_pictures import ExplanationPictures
from dynalens.callbacks.guarded import GuardedPictures
from dynalens.callbacks.training_dynamics import TrainingDynamicsMonitor
from dynalens.dynamics import Array


class SuspectContrasts(GuardedPictures):
    """The part of a monitor that a gallery of suspects asks for maps; what it reads is the monitor's."""

    guarded = "Explanations"
    contrast: str | None
    _budget: Budget
    _chosen: ChosenSamples
    _dynamics: TrainingDynamicsMonitor | None
    _epoch_began: float
    _explainer: Explainer
    _pictures: ExplanationPictures | None

    def contrasts(
        self, trainer: Any, of: TrainingDynamicsMonitor, wanted: Mapping[Any, tuple[int, int]]
    ) -> dict[Any, Array]:
        """Return maps of what speaks for the suggested rather than the given class.

        Args:
            trainer: The Trainer.
            of: The monitor whose suspects they are.
            wanted: Suggested and given class by the sample's id.
        """
        passed = self._chosen.suspects() if of is self._dynamics else None
        if self._pictures is None or self.contrast is None or passed is None or not passed[1].is_floating_point():
            return {}
        began, found = time.perf_counter(), dict[Any, Array]()
        rows = [row for row, sample in enumerate(passed[0]) if sample in wanted]
        with self._or_switched_off():
            if rows:
                ids = [passed[0][row] for row in rows]
                maps = self._contrasted(trainer.lightning_module, passed[1][rows], [wanted[i] for i in ids])
                found = dict(zip(ids, maps.float().cpu().numpy(), strict=True))
        seconds = time.perf_counter() - began
        self._budget.aside(seconds)
        self._epoch_began += seconds  # a tracker that draws first must not make the training look longer
        return found

    def _contrasted(self, pl_module: Any, images: Tensor, classes: list[tuple[int, int]]) -> Tensor:
        assert self.contrast is not None
        images = images.to(pl_module.device)
        of, against = torch.tensor(classes, device=images.device).unbind(dim=1)
        forward = self._forward(pl_module, images)
        return self._explainer.contrasted(pl_module, forward, images, of, against, self.contrast)
