"""What a training step shows of its samples: rows of the record, logits, targets, and features of a layer."""

from contextlib import suppress
from typing import Any

from torch import Tensor

from dynalens.callbacks.layer_features import LayerFeatures
from dynalens.capture import Capture, CaptureError, ClaimedPairs, Presentation, StepCapture
from dynalens.identity import SampleIdentity, StepRows, labels_each
from dynalens.observation import is_compiled


class TrainingStep:
    """Reads what each training step presents to the network.

    ``install`` once, ``begin_epoch`` for each epoch, then for each step ``start``, ``before_backward``, ``read`` and
    ``close``; ``end_fit`` undoes everything and may be called at any time, more than once.

    Args:
        identity: Knows the samples of a batch.
        capture: Where logits and targets come from, as of :class:`~dynalens.capture.StepCapture`.
        features: The layer whose output is kept.
        views: Rows of logits for each sample.

    Attributes:
        units: Name of the kind of units that the step's samples have, and its targets; None where each has one label.
    """

    def __init__(self, identity: SampleIdentity, capture: Capture, features: LayerFeatures, views: int) -> None:
        self._identity, self._features, self._views = identity, features, views
        self._first = self._is_automatic = True
        self._capture, self._pairs = StepCapture(capture), ClaimedPairs()
        self.rows = StepRows(identity)
        self.units: tuple[str, Tensor] | None = None

    def install(self, trainer: Any, pl_module: Any) -> None:
        """A fit begins: what must stand before the first loader is made."""
        self._capture.install(pl_module)
        self._pairs = ClaimedPairs()
        self.rows.begin(trainer, traces=not is_compiled(pl_module))
        self._identity.install(trainer)
        self._first = True

    def begin_epoch(self) -> None:
        """An epoch begins."""
        self.rows.begin_epoch()

    def start(self, pl_module: Any, batch: Any) -> None:
        """A step begins."""
        self.rows.start(batch)
        if self._first:
            self._capture.expect_labels(labels_each(self._identity.dataset))
            self._first = False
        self._capture.start(pl_module)
        self._pairs.start()
        if self._features.name is not None:
            self._is_automatic = bool(getattr(pl_module, "automatic_optimization", True))
            self._features.start(pl_module, self.rows.source_of)

    def before_backward(self, loss: Tensor) -> None:
        """The step's own loss is known: what runs from here on is not its forward pass."""
        self._pairs.before_backward(loss)
        self._capture.before_backward(loss)
        if self._features.name is not None:
            self._features.before_backward(loss, is_only=self._is_automatic)

    def stop(self) -> None:
        """The step has run: what is computed from here on, as by other readers of the step, is no part of it."""
        self._capture.stop()  # its rows are traced on, as losses of parts of the batch are yet to be joined

    def read(self, trainer: Any, outputs: Any, batch: Any) -> tuple[Tensor, Presentation] | None:
        """Return the row of the record of each target, (N,), with logits and targets; None if it trained on none.

        Raises:
            CaptureError: If logits or targets are ambiguous or were not seen.
            SampleIdentityError: If the samples cannot be known.
        """
        if self._features.name is not None:
            self._features.close()
        rows = self._identity.rows(trainer, batch) if batch is not None else None
        if rows is None:  # this step trained on no sample of the loader
            with suppress(CaptureError):
                self._capture.finish(outputs, batch)
            return None
        samples = self._identity.samples_of(batch)
        count = rows.shape[0] if self._views == 1 else None
        presentation = self._capture.finish(
            outputs, batch, samples, rows_of=self.rows.rows_of, choose=self.rows.loss_of_labels, count=count
        )
        if presentation is None:
            return None
        self.units = None if presentation.units is None else (presentation.units.kind.name, presentation.given)
        self._pairs.check(presentation, self.rows.rows_of, accumulates=trainer.accumulate_grad_batches)
        target_rows = self.rows.of_targets(trainer, batch, rows, presentation, self._views)
        self._capture.trust_targets(self.rows.confirmed)
        return target_rows, presentation

    def keep_features(self, presentation: Presentation, num_samples: int) -> None:
        """Keep the layer's output for the samples of the step that was read, rows of a record of this length."""
        features = self._features.of_step(presentation.nodes, len(presentation.targets), self._views)
        if features is not None:
            rows = self.rows.of_inputs(len(features.values) // self._views, [call.mark for call in features.calls])
            length = len(self._identity.ids or range(num_samples))
            self._features.record(features.values, rows, length, self._views)

    def close(self) -> None:
        """The step was recorded."""
        self.rows.close()

    def end_epoch(self) -> None:
        """Raise a CaptureError where the epoch's targets turn out to name no classes, or no step's loss was seen."""
        self._capture.end_epoch()

    def end_fit(self) -> None:
        """Undo ``install``."""
        self.units = None
        self._capture.close()
        self.rows.close()
        self._features.close()
        self._identity.close()
