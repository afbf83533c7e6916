"""The newest output of a layer for each training sample: Lightning hooks become calls."""

import functools
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dynalens.dynamics import Array
from dynalens.features import FeatureRows, position_mean
from dynalens.host import Processes
from dynalens.observation import LayerCall, LayerCalls, layer_calls, module_named
from dynalens.suspicion import neighbour_scores


class Features(NamedTuple):
    """The output of a layer in a step.

    Attributes:
        values: Shape ``(M, D)``, of the samples, or of one view of all samples after another.
        calls: The calls of the layer, with the marks of their inputs.
    """

    values: Tensor
    calls: Sequence[LayerCall]


class LayerFeatures:
    """Watches one layer during the training steps. Without a name it does nothing.

    Args:
        name: Dotted name of the layer, or None.
    """

    def __init__(self, name: str | None) -> None:
        self.name = name
        self.rows: FeatureRows | None = None
        self._step = ExitStack()
        self._calls: LayerCalls | None = None
        self._losses: list[Any] = []
        self._error: ValueError | None = None

    def check(self, model: Any) -> None:
        """Raise a ValueError if the model has no such layer."""
        if self.name is not None:
            module_named(model, self.name, argument="features")

    def start(self, model: Any, source_of: Callable[[Any], Any]) -> None:
        """A training step begins.

        Args:
            model: The module.
            source_of: Returns what is known of the rows of the layer's input.
        """
        if self.name is not None:
            self._step.close()
            layer = module_named(model, self.name, argument="features")
            watch = layer_calls(layer, functools.partial(self._mean_of, layer), mark=source_of)
            self._calls, self._losses, self._error = self._step.enter_context(watch), [], None

    def _mean_of(self, layer: nn.Module, output: Tensor) -> Any:
        """Return the mean over positions; None if there is none, as this runs in the middle of the user's step."""
        try:
            return position_mean(layer, output)
        except ValueError as error:
            self._error = error
            return None

    def before_backward(self, loss: Tensor, *, is_only: bool) -> None:
        """A loss is known. If it is the step's only one, what runs from now on is not the step's forward pass."""
        if self.name is not None:
            self._losses.append(loss.grad_fn)
            if is_only:
                self._step.close()

    def close(self) -> None:
        """End the watch: the step has run."""
        self._step.close()

    def of_step(self, nodes: Sequence[Any], samples: int, views: int) -> Features | None:
        """Return the layer's output for the step's logits, and drop it; None without a layer.

        Args:
            nodes: Nodes of autograd's graph that gave the logits. If none are known, those of the losses count.
            samples: Number of targets, in all views.
            views: Number of rows per sample, one view of all samples after another.

        Raises:
            ValueError: If several calls lead to the logits, and they are neither views nor parts of the batch, or if
                the output has no mean over positions.
            RuntimeError: If the layer did not run.
        """
        self.close()
        calls, self._calls = self._calls, None
        if calls is None:
            return None
        if self._error is not None:
            raise self._error
        calls_behind = calls.leading_to(nodes or self._losses)
        lengths = {len(call.value) for call in calls_behind}
        are_views = len(calls_behind) == views and lengths == {samples // views}
        are_parts = sum(len(call.value) for call in calls_behind) == samples and all(call.mark for call in calls_behind)
        if len(calls_behind) > 1 and not are_views and not are_parts:
            raise ValueError(
                "Expected `features` to name a layer that is called once to compute the logits of a step, got "
                f"{len(calls_behind)} calls of {self.name}. Name one that runs once, such as an `nn.Identity()` "
                "through which the logits' features pass."
            )
        values = calls_behind[0].value if len(calls_behind) == 1 else torch.cat([call.value for call in calls_behind])
        return Features(values, calls_behind)

    def record(self, values: Tensor, rows: Tensor, num_samples: int, views: int) -> None:
        """Keep the features of a step's samples.

        Args:
            values: Shape ``(views * N, D)`` or ``(N, D)``, one view after another. Views are averaged.
            rows: Shape ``(N,)``, the row of the record of each sample.
            num_samples: Number of rows of the record.
            views: Views of each sample.

        Raises:
            ValueError: If there are not N of them, or of each view.
        """
        if len(values) not in (len(rows), len(rows) * views):
            raise ValueError(
                f"Expected `features` to name a layer that gives a row for each of {len(rows)} samples, got "
                f"{len(values)} rows of {self.name}. Name a layer whose output has one row for each sample."
            )
        self.rows = self.rows or FeatureRows()
        self.rows.update(rows, values.view(-1, len(rows), values.shape[1]).mean(dim=0), num_samples)

    def end_epoch(self, processes: Processes) -> None:
        """Share the features of the epoch between processes. All of them have to call it."""
        if self.name is None:
            return
        self.rows = self.rows or FeatureRows()
        if processes.number > 1:
            self.rows.merge(processes.gather)
        else:
            self.rows.end_epoch()

    def scores(self, labels: Array) -> Array | None:
        """Return the fraction of each sample's nearest neighbours with another label, or None without features."""
        if self.name is None or self.rows is None or not self.rows.values.shape[1]:
            return None
        return neighbour_scores(self.rows.values[: len(labels)], labels)

    def state(self) -> dict[str, Any] | None:
        """Return the features as tensors on the host."""
        return None if self.rows is None else self.rows.state_dict()

    def load_state(self, state: dict[str, Any] | None) -> None:
        """Continue with the features of a checkpoint."""
        self.rows = None
        if state is not None and self.name is not None:
            self.rows = FeatureRows()
            self.rows.load_state_dict(state)
