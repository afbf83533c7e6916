"""The explanations of a run: keep samples, and explain them epoch by epoch."""

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dynalens.dynamics import Array
from dynalens.explanations.comparison import EarlierMaps
from dynalens.explanations.epoch import EpochExplanations
from dynalens.explanations.explainer import Explainer
from dynalens.explanations.result import middle_slices
from dynalens.explanations.robustness import none_of
from dynalens.explanations.samples import ExplainedSamples, Units
from dynalens.explanations.settings import ExplanationSettings
from dynalens.explanations.tokens import defined
from dynalens.explanations.units import contrasted_units, explained_suspects, explained_units
from dynalens.explanations.unlike_inputs import tell_channels_last, tell_other_inputs
from dynalens.notices import warn
from dynalens.observation import is_tokens
from dynalens.robustness import check_robustness


class RunExplanations:
    """Explains the samples of a run. It does not know the Trainer.

    Attributes:
        samples: Takes the explained samples from the batches.
        explainer: Computes maps and metrics. Each fit has a new one.
    """

    def __init__(self, settings: ExplanationSettings) -> None:
        self.samples = ExplainedSamples(settings.choice, self._take_inputs)
        self._earlier_maps, self._has_told_inputs, self._notice = EarlierMaps(), False, ""
        self._prepare(settings, "float32")

    def begin_fit(self, settings: ExplanationSettings, precision: str, *, is_only_one: bool) -> None:
        """A fit begins. The samples stay; what works is found out anew.

        Args:
            settings: What is explained, and how.
            precision: Precision of the Trainer.
            is_only_one: See :class:`~dynalens.capture.BatchObserver`.
        """
        self._prepare(settings, precision)
        self.samples.begin_fit(is_only_one=is_only_one, own_forward=settings.maps.forward is None)

    def _prepare(self, settings: ExplanationSettings, precision: str) -> None:
        self._maps, self._choice = settings.maps, settings.choice
        self.explainer = Explainer(
            self._maps.methods, self._maps.metrics, self._maps.curves(precision), self._maps.method_args,
            self._maps.target_layer, forward=self._maps.forward, strict=settings.strict,
            robustness=check_robustness(self._maps.robustness), optional=self._maps.optional,
        )  # fmt: skip

    def _take_inputs(self, inputs: Tensor) -> None:
        """Raise if inputs cannot be explained, and leave out what is not defined for them."""
        explainer, baseline = self.explainer, self._maps.baseline
        self._maps.check_inputs(inputs, strict=explainer.strict)
        explainer.methods, explainer.metrics, notice = defined(
            inputs, explainer.methods, explainer.metrics, baseline, explainer.optional
        )
        self._notice = notice or self._notice

    def explain(self, model: nn.Module, units: Units | None = None) -> EpochExplanations | None:
        """Return the explanations of this epoch; None if no sample has passed yet.

        Args:
            model: The module.
            units: With several labels, tokens or pixels: the doubtful unit of each suspect.
        """
        samples = self.samples.every_epoch()
        self.explainer.take(self.samples.task)
        if samples is None:
            return None
        self._take_inputs(samples[1])  # those of a checkpoint come from no batch of this fit
        predicted, regions = self._choice.target == "prediction", self.samples.regions(samples[0])
        dense = self.samples.dense
        explain_batch = functools.partial(explained_units, self.explainer) if dense else self.explainer.explanation_of
        every_epoch = explain_batch(model, samples, predicted=predicted, regions=regions)
        self._tell_inputs(model, samples[1])
        self._earlier_maps.compare(every_epoch, self._maps.metrics)
        suspects = self.samples.suspects(self._choice.suspects, units)
        if dense:
            self.explainer.robustness = none_of(self.explainer.robustness)
            by_class = {} if suspects is None else explained_suspects(self.explainer, model, suspects, units or {})
            return EpochExplanations(every_epoch, by_class)
        by_class = {} if suspects is None else self.explainer.explained_twice(model, suspects)
        by_class = {name: result.of_units(units) for name, result in by_class.items()}
        return EpochExplanations(every_epoch, by_class, self.explainer.robust(model, samples[1], samples[2]))

    def _tell_inputs(self, model: nn.Module, inputs: Tensor) -> None:
        """Warn once of what the first explanation leaves out: methods, inputs, or the axis of time."""
        if self._notice:
            warn(self._notice)
            self._notice = ""
        is_told, self._has_told_inputs = self._has_told_inputs, True
        if not is_told and self._maps.forward is None and self._choice.inputs == "auto":
            tell_other_inputs(self.samples.observer.layout)
            if not self.samples.dense:
                tell_channels_last(model, self.explainer.forward_of, inputs)

    def contrasts(self, model: nn.Module, classes: Mapping[Any, tuple[int, int]]) -> dict[Any, Array]:
        """Return maps of what speaks for each suspect's suggested class and against its given class, by its id.

        Args:
            model: The module.
            classes: Suggested and given class by the sample's id.
        """
        method = self._maps.contrast
        suspects = None if method is None else self.samples.suspects()
        if method is None or suspects is None or is_tokens(suspects[1]):
            return {}
        if self.samples.dense:
            return contrasted_units(self.explainer, model, suspects, classes, method)
        rows = [row for row, sample in enumerate(suspects[0]) if sample in classes]
        if not rows:
            return {}
        ids = [suspects[0][row] for row in rows]
        suggestions, labels = torch.tensor([classes[sample] for sample in ids]).unbind(dim=1)
        maps = self.explainer.contrast_maps(model, suspects[1][rows], suggestions, labels, method=method)
        return dict(zip(ids, middle_slices(maps).float().cpu().numpy(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Return the samples, and the maps with which later ones are compared."""
        return self.samples.state_dict() | {
            "first": dict(self._earlier_maps.first_maps),
            "last": dict(self._earlier_maps.previous_maps),
            "total": dict(self._earlier_maps.total),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with the samples of a checkpoint."""
        self.samples.load_state_dict(state)
        self._earlier_maps = EarlierMaps(state["first"], state["last"], state.get("total", {}))
