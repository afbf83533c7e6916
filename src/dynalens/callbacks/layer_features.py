"""The newest output of a layer for each training sample: Lightning hooks become calls."""

import functools
from contextlib import ExitStack
from typing import Any

from torch import Tensor

from dynalens.dynamics import Array
from dynalens.features import FeatureRows, pooled
from dynalens.host import Processes
from dynalens.observation import Capturing, captured_output, module_named
from dynalens.suspicion import neighbour_scores


class LayerFeatures:
    """Watches one layer during the training steps; without a name it does nothing.

    Args:
        name: Dotted name of the layer, or None.
    """

    def __init__(self, name: str | None) -> None:
        self.name = name
        self._rows: FeatureRows | None = None
        self._step = ExitStack()
        self._captured: Capturing | None = None

    @property
    def rows(self) -> FeatureRows | None:
        """The features, or None before there are any."""
        return self._rows

    def check(self, model: Any) -> None:
        """Raise a ValueError if the model has no such layer."""
        if self.name is not None:
            module_named(model, self.name, argument="features")

    def start(self, model: Any) -> None:
        """A training step begins."""
        if self.name is not None:
            self._step.close()
            layer = module_named(model, self.name, argument="features")
            watch = captured_output(layer, functools.partial(pooled, layer), trained=True)
            self._captured = self._step.enter_context(watch)

    def close(self) -> None:
        """Stop watching: the loss is known, and what runs from here on is not the step's forward pass."""
        if self.name is not None:
            self._step.close()

    @property
    def count(self) -> int:
        """How many rows the layer gave in this step."""
        return 0 if self._captured is None else len(self._captured.value)

    def record(self, rows: Tensor, num_samples: int, views: int) -> None:
        """Keep the features of a step's samples.

        Args:
            rows: Shape ``(N,)``, rows of the record.
            num_samples: How many there are.
            views: Views of each sample, one after another, whose features are averaged.

        Raises:
            ValueError: If there are not N of them, or of each view.
            RuntimeError: If the layer did not run.
        """
        self.close()
        if self.name is None or self._captured is None:
            return
        features, self._captured = self._captured.value, None
        if len(features) not in (len(rows), len(rows) * views):
            raise ValueError(
                f"Expected `features` to name a layer that gives a row for each of {len(rows)} samples, got "
                f"{len(features)} rows of {self.name}. Name a layer that sees the samples one by one."
            )
        features = features.view(-1, len(rows), features.shape[1]).mean(dim=0)
        self._rows = self._rows or FeatureRows()
        self._rows.update(rows, features, num_samples)

    def end_epoch(self, processes: Processes) -> None:
        """Share the features of the epoch between processes; all of them have to call it."""
        if self.name is None:
            return
        self._rows = self._rows or FeatureRows()
        if processes.number > 1:
            self._rows.merge(processes.gather)
        else:
            self._rows.end_epoch()

    def scores(self, labels: Array) -> Array | None:
        """Return the fraction of each sample's nearest neighbours with another label, or None without features."""
        if self.name is None or self._rows is None or not self._rows.values.shape[1]:
            return None
        return neighbour_scores(self._rows.values[: len(labels)], labels)

    def state(self) -> dict[str, Any] | None:
        """Return the features as tensors on the host."""
        return None if self._rows is None else self._rows.state_dict()

    def load_state(self, state: dict[str, Any] | None) -> None:
        """Go on with those of a checkpoint."""
        self._rows = None
        if state is not None and self.name is not None:
            self._rows = FeatureRows()
            self._rows.load_state_dict(state)
