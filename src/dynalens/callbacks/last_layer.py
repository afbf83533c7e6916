"""The inputs of the last layer in each training step, for the noise of its gradients: Lightning hooks become calls."""

import math
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from dynalens.capture import CaptureError, Presentation
from dynalens.dynamics import GradientNoise
from dynalens.host import Processes
from dynalens.notices import warn
from dynalens.observation import LayerCall, LayerCalls, layer_calls, module_named, two_class_logits

_ADVICE = "Pass `gradient_noise=` with the dotted name of the linear layer that gives the logits, or leave it out."
_SAME = 1e-3
"""Largest difference of probabilities that rounding alone explains: bfloat16 has steps of 2^-9."""


class LastLayer:
    """Watches the linear layer that gives the logits. Without a name it does nothing.

    Args:
        name: Dotted name of the layer; True for the last linear one; False for none.
    """

    def __init__(self, name: bool | str) -> None:
        self.name = name
        self._noise = GradientNoise()
        self._layer: nn.Linear | None = None
        self._step = ExitStack()
        self._calls: LayerCalls | None = None
        self._is_same: Tensor | None = None
        self._has_begun = self._has_warned = False

    def install(self, model: Any) -> None:
        """A fit begins: find the layer.

        Raises:
            ValueError: If the model has no such layer.
        """
        self._noise, self._is_same, self._has_begun, self._has_warned = GradientNoise(), None, False, False
        self._layer = self._find_layer(model) if self.name else None

    def _find_layer(self, model: Any) -> nn.Linear:
        if isinstance(self.name, str):
            layer: Any = module_named(model, self.name, argument="gradient_noise")
        else:
            linear: list[Any] = [module for module in model.modules() if isinstance(module, nn.Linear)]
            layer = linear[-1] if linear else None
        if not isinstance(layer, nn.Linear):
            kind = "no linear layer" if layer is None else f"a {type(layer).__name__}"
            raise ValueError(f"Expected `gradient_noise` to name a linear layer, got {kind}. {_ADVICE}")
        return layer

    def start(self) -> None:
        """A training step begins."""
        if self._layer is not None:
            self._step.close()
            self._calls = self._step.enter_context(layer_calls(self._layer, mark=lambda features: features))

    def close(self) -> None:
        """End the watch: what runs from now on is not the step's forward pass."""
        if self._calls is not None:
            self._step.close()

    def record(self, presentation: Presentation) -> None:
        """Add a step whose logits and targets are known.

        Raises:
            CaptureError: If the first step shows that the layer does not give the logits of single samples.
        """
        if self._layer is None:
            return
        self.close()
        calls, self._calls = self._calls, None
        call = None if calls is None else self._call_of_targets(calls, presentation)
        if call is None:
            return
        features, logits, targets = call.mark, call.value.detach().float(), presentation.targets
        layer_probabilities, loss_probabilities = (
            part.float().softmax(dim=1) for part in (two_class_logits(logits), presentation.logits)
        )
        is_same = (layer_probabilities - loss_probabilities).abs().amax() < _SAME
        self._is_same = is_same if self._is_same is None else self._is_same & is_same
        if not self._has_begun:
            self._check_same()  # the only time that a step waits for the device
            self._has_begun = True
        logits = logits.masked_fill(~is_same, math.nan)  # a step that is not finite is left out
        try:
            self._noise.update(features, logits, targets, bias=self._layer.bias is not None)
        except Exception as error:  # noqa: BLE001  # such as a full device: the training needs no noise
            self._leave_out(f"{type(error).__name__}: {error}")

    def _call_of_targets(self, calls: LayerCalls, presentation: Presentation) -> LayerCall | None:
        """Return the layer's call with one row per target. If there is none: raise in the first step, warn once later.

        It then returns None.
        """
        if presentation.units is not None:
            raise CaptureError(
                "Expected one class for each sample with `gradient_noise`, got samples with several labels, "
                "tokens or pixels, or a regression. Leave `gradient_noise` out."
            )
        rows = len(presentation.targets)
        try:
            call = calls.leading_to(presentation.nodes)[-1]
        except RuntimeError:
            text = "no call of the layer with a tensor"
        else:
            features = call.mark
            if isinstance(features, Tensor) and features.ndim == 2 and len(features) == len(call.value) == rows:
                return call
            text = f"{rows} targets and inputs {tuple(getattr(features, 'shape', ()))} of the layer"
        if not self._has_begun:
            raise CaptureError(
                f"Expected the layer of `gradient_noise` to get one row for each sample, got {text}. {_ADVICE}"
            )
        self._leave_out(text)
        return None

    def _leave_out(self, reason: str) -> None:
        """Warn once that the noise comes from other steps only."""
        if not self._has_warned:
            self._has_warned = True
            warn(f"Steps are left out of the gradient noise, training goes on. The first one had {reason}.")

    def _check_same(self) -> None:
        if self._is_same is not None and not self._is_same.item():
            raise CaptureError(
                "Expected `gradient_noise` to name the layer that gives the logits, got a layer with other "
                f"outputs. {_ADVICE}"
            )

    def end_epoch(self, processes: Processes) -> dict[str, float]:
        """Return the epoch's noise; all processes have to call it."""
        if self._layer is None:
            return {}
        if self._is_same is not None and not self._is_same.item():
            self._leave_out("logits that are not the layer's")
        self._is_same = None
        return self._noise.end_epoch(processes.gather)

    def end_fit(self) -> None:
        """Drop the layer."""
        self.close()
        self._layer = self._calls = None
