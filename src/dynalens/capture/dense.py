"""Sequences and masks: logits and targets of a step with one class for each token or pixel."""

from typing import Any

import torch
from torch import Tensor

from dynalens.capture.batch import CaptureError
from dynalens.capture.entries import entry_at, leaves
from dynalens.capture.flat_targets import FlatTargets
from dynalens.capture.label_rows import mark_ignored, without_ignored
from dynalens.capture.loss_tap import LossCall
from dynalens.capture.selected_labels import Selections
from dynalens.capture.sequences import FrontPadding, label_axis
from dynalens.capture.soft import FixedLevels
from dynalens.dynamics import IGNORED, NOT_A_CLASS
from dynalens.units import UnitPresentation, dense, dense_binary, dense_labels

_COMPARED_STEPS = 3
"""Number of steps whose flat targets are compared with their batch. One step may not be enough: its targets may all be
one class."""

_TIME_FIRST = (
    "Expected the targets of the loss to be those of the batch, (N, T), in its order, got them as (T, N). Return a "
    "dict of `loss`, and of `logits` (N, K, T) and `targets` (N, T) of the batch in its order."
)

ShownUnits = tuple[UnitPresentation, Tensor]
"""What a step shows of the units of its samples, and the targets of the samples, ``(N, ...)``."""


class DenseTargets:
    """Recognise targets with a class for each token or pixel, and find out which sample each of them belongs to.

    A step may flatten the tokens of N samples, to logits (N T, K) and targets (N T,). They are recognised by an entry
    of the batch that holds the same targets in the order of its rows. Only the first batches are compared, so that
    later steps do not wait for the device.

    Args:
        multi_label: Whether a pixel may have any number of labels although in the first batch each has one, and whether
            targets with three axes are labels of tokens, (N, T, K), although the batch has no tokens.
    """

    def __init__(self, *, multi_label: bool = False) -> None:
        self._multi_label, self._levels = multi_label, FixedLevels()
        self._flat: FlatTargets | None = None
        self._comparisons_left, self._place = _COMPARED_STEPS, 0
        self._unchecked_steps = _COMPARED_STEPS
        self._is_dense = self._has_one_hot = False
        self._label_axis: int | None = None
        self._knows_axis = False
        self._front_padding, self._selections = FrontPadding(_COMPARED_STEPS), Selections()
        self.begin_batch(None, None)

    def begin_batch(self, batch: Any, samples: int | None) -> None:
        """Remember the batch that the next targets belong to, and its number of samples; None if that is not known."""
        self._batch, self._samples = batch, samples

    def in_rows(self, call: LossCall) -> LossCall:
        """Return a loss with its units in the rows of their samples, if a mask selected them there."""
        return self._selections.in_rows(call, (leaf for _, leaf in leaves(self._batch)), self._samples)

    def are_samples(self, logits: Tensor, targets: Tensor) -> bool:
        """Return whether logits are (N, K) and targets have one class for each of N samples: the usual case."""
        if self._flat is not None or targets.dtype is not torch.int64:
            return False
        shape, rows = logits.shape, self._samples  # not by `len`, which takes three calls
        return len(shape) == 2 and shape[1] > 1 and shape[0] == rows and targets.shape == shape[:1]

    def units_of_classes(
        self,
        logits: Tensor,
        targets: Tensor,
        loss_mask: Tensor | None = None,
        class_weight: Tensor | None = None,
        *,
        is_returned: bool = False,
    ) -> ShownUnits | None:
        """Return what a loss of classes shows of tokens or pixels; None where each sample has one class.

        Args:
            logits: Those of the loss.
            targets: Its targets, negative where it ignores them, or of the logits' shape with one 1 for each.
            loss_mask: Which of them have a part in the loss; default: all.
            class_weight: Shape ``(K,)``; a class of weight 0 has no part.
            is_returned: Whether the step returned them, so that no loss was seen.

        Raises:
            CaptureError: If flat targets are others than those of the batch, or targets are no classes of the logits.
        """
        logits, targets = logits.detach(), _squeeze_channel(logits, targets.detach())
        if targets.is_floating_point() or targets.is_complex():
            label_mask = loss_mask if loss_mask is not None and loss_mask.shape == targets.shape else None
            classes = None if self._multi_label else self._classes_of_one_hot(logits, targets, label_mask)
            if classes is None:
                return None
            targets, loss_mask = classes, loss_mask if label_mask is None else label_mask.any(dim=1)
        targets = mark_ignored(targets, loss_mask, class_weight)
        place = self._first_place(targets, is_returned=is_returned) if logits.ndim == 3 else 0
        if logits.ndim == 2 and targets.shape == logits.shape[:1]:
            shape = self._shape_of_rows(targets)
            if shape is None or self._flat is None:
                return None
            if self._flat.is_selection:
                logits, targets = _put_back(logits, targets, entry_at(self._batch, self._flat.path))
            place = self._flat.begin
            logits, targets = logits.reshape(*shape, logits.shape[1]).movedim(-1, 1), targets.reshape(shape)
        if not self._takes(logits, targets):
            return None
        self._is_dense = True
        self._check_classes(logits.shape[1], targets)
        if targets.ndim == 2:
            self._front_padding.look(leaves(self._batch))
        return dense(logits, targets.long(), (targets >= 0) | (targets == NOT_A_CLASS), begin=place), targets

    def rows_of_samples(
        self, logits: Tensor, targets: Tensor, loss_mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return logits and targets of N samples with K labels each as (N, K), where a loss has them flat.

        Those of N x T tokens, (N T, K), are returned as (N, T, K).
        """
        is_table = (
            targets.ndim == 2 and targets.shape == logits.shape and len(targets) > (self._samples or len(targets))
        )
        is_vector = (
            targets.shape[1:] in ((), (1,)) and targets.is_floating_point() and logits.numel() == targets.numel()
        )
        shape = self._shape_of_rows(targets.flatten()) if is_table or is_vector else None
        has_form = shape is not None and (len(shape) == 3 if is_table else len(shape) < 3)
        if shape is None or not has_form or self._flat is None or self._flat.is_selection:
            return logits, targets, loss_mask
        is_counted = None if loss_mask is None else loss_mask.expand_as(targets).reshape(shape)
        return logits.reshape(shape), targets.reshape(shape), is_counted

    def units_of_labels(self, logits: Tensor, targets: Tensor, loss_mask: Tensor | None = None) -> ShownUnits | None:
        """Return what a binary loss shows of tokens or pixels, whose classes are one-hot or which have several labels.

        The first batch tells whether they are tokens or pixels.
        """
        if targets.ndim == 3 and targets.shape == logits.shape and (axis := self._axis_of_labels(targets)) is not None:
            self._front_padding.look(leaves(self._batch))
            return self._units_of_several(logits, targets, loss_mask, axis)
        units = self.units_of_masks(logits, targets, loss_mask)
        units = units or self.units_of_classes(logits, targets, loss_mask, is_returned=True)
        if units is not None or targets.ndim < 4 or targets.shape != logits.shape or self._has_one_hot:
            return units
        return self._units_of_several(logits, targets, loss_mask, axis=1)

    def _units_of_several(
        self, logits: Tensor, targets: Tensor, loss_mask: Tensor | None, axis: int
    ) -> ShownUnits | None:
        """Return what a loss shows of pixels or tokens with several labels, which stand on this axis."""
        targets = targets.detach()
        bits = self._levels.binary(without_ignored(targets, loss_mask).flatten()).view(targets.shape)
        if not self._levels.is_known:
            return None
        is_counted = None if loss_mask is None else loss_mask.expand_as(targets).movedim(axis, 1)
        return dense_labels(logits.movedim(axis, 1), bits.movedim(axis, 1), is_counted), targets

    def _axis_of_labels(self, targets: Tensor) -> int | None:
        """Return the axis along which tokens have their labels; None for masks. The first batch decides."""
        if not self._knows_axis:
            self._knows_axis = True
            self._label_axis = label_axis(targets, leaves(self._batch)) or (2 if self._multi_label else None)
        return self._label_axis

    def units_of_masks(self, logits: Tensor, targets: Tensor, loss_mask: Tensor | None = None) -> ShownUnits | None:
        """Return what a binary loss shows of pixels; None where these are no masks.

        Args:
            logits: Those of the loss, one for each pixel.
            targets: Its targets, 0 and 1, or both smoothed by a fixed amount.
            loss_mask: Which of them have a part in the loss; default: all.
        """
        mask = self._mask_of(targets.detach()) if logits.numel() == targets.numel() else None
        if mask is None:
            return None
        is_counted = None if loss_mask is None else loss_mask.expand_as(targets).reshape(mask.shape)
        classes = self._levels.binary(without_ignored(mask, is_counted).flatten()).view(mask.shape)
        if not self._levels.is_known:
            return None
        return dense_binary(logits.detach().reshape(mask.shape), classes, is_counted), mask

    def has_masks(self, targets: Tensor) -> bool:
        """Return whether targets of a binary loss are masks, of one or several labels for each pixel."""
        return targets.ndim > 3 or self._mask_of(targets.detach()) is not None

    def _mask_of(self, targets: Tensor) -> Tensor | None:
        """Return the targets of a binary loss as masks (N, H, W); None if they are not masks."""
        if targets.ndim == 1 or targets.shape[1:] == (1,):
            shape = self._shape_of_rows(targets.flatten())
            if shape is not None and self._flat is not None and not self._flat.is_selection:
                targets = targets.reshape(shape)
        if targets.ndim > 3 and targets.shape[1] == 1:
            return targets.squeeze(1)
        return targets if targets.ndim == 3 else None

    def _classes_of_one_hot(self, logits: Tensor, targets: Tensor, label_mask: Tensor | None) -> Tensor | None:
        """Return the class of each token or pixel from one-hot targets (N, K, ...); None if they are not one-hot.

        In the first batch all targets that count must be one-hot, and count with all K labels. In later batches,
        targets for which this does not hold are marked as no class on the device.

        Args:
            logits: Those of the loss.
            targets: Its targets.
            label_mask: Which of them have a part in the loss, in their shape; None: each class of all, or of none.
        """
        if targets.ndim < 3 or targets.shape != logits.shape or targets.shape[1] < 2:
            return None
        is_one_hot = ((targets == 0) | (targets == 1)).all(dim=1) & (targets.sum(dim=1) == 1)
        if label_mask is not None:
            is_one_hot = (is_one_hot & label_mask.all(dim=1)) | ~label_mask.any(dim=1)
        if not self._has_one_hot and not bool(is_one_hot.all()):
            return None
        self._has_one_hot = True
        return torch.where(is_one_hot, targets.argmax(dim=1), NOT_A_CLASS)

    def _takes(self, logits: Tensor, targets: Tensor) -> bool:
        has_shape = logits.ndim >= 3 and targets.shape == (len(logits), *logits.shape[2:]) and logits.shape[1] > 1
        return has_shape and (self._is_dense or targets[:1].numel() > 1)

    def _check_classes(self, number: int, targets: Tensor) -> None:
        """Raise in the first steps if targets that count are no classes. Those of later steps are marked."""
        if not self._unchecked_steps:
            return
        self._unchecked_steps -= 1
        if targets.numel() and (largest := int(targets.max())) >= number:
            raise CaptureError(
                f"Expected classes from 0 to {number - 1} as targets, since the logits have {number} classes, got "
                f"{largest}. If it says that a token or pixel does not count, as 255 often does: Return a dict of "
                "`loss`, and of `logits` and `targets` with -100 in its place, from `training_step`."
            )

    def _first_place(self, targets: Tensor, *, is_returned: bool) -> int:
        """Return at which position of its row in the batch each sample's first target stands.

        It is 0 if that is not known.
        """
        if self._comparisons_left and not self._place and targets.ndim == 2 and len(targets) == self._samples:
            flat = FlatTargets.told_by(targets.flatten(), leaves(self._batch), len(targets))
            is_square = targets.shape[0] == targets.shape[1] and not is_returned
            if (
                flat is None
                and is_square
                and FlatTargets.told_by(targets.T.flatten(), leaves(self._batch), len(targets))
            ):
                raise CaptureError(_TIME_FIRST)
            self._place = 0 if flat is None else flat.begin
            self._comparisons_left -= 1
        return self._place

    def _shape_of_rows(self, targets: Tensor) -> tuple[int, ...] | None:
        """Return the shape (N, ...) that flat targets had.

        It is None if each target is a sample, or if the shape is not known.
        """
        rows, samples = len(targets), self._samples
        if not samples or (rows == samples and self._flat is None):
            return None
        if self._comparisons_left:
            flat = FlatTargets.told_by(targets, leaves(self._batch), samples)
            if self._flat is not None and flat is None and bool((targets >= 0).any()):
                raise CaptureError(
                    f"Expected the {rows} targets of {samples} samples to be those of the batch in its order, as in "
                    "the first step, got others. Return a dict of `loss`, and of `logits` (N, K, T) and `targets` "
                    "(N, T) of the batch in its order."
                )
            self._comparisons_left -= flat is not None
            self._flat = self._flat or flat
        return None if self._flat is None else self._flat.shape(self._batch, rows, samples)


def _squeeze_channel(logits: Tensor, targets: Tensor) -> Tensor:
    """Return classes of pixels without their channel: (N, 1, ...) become (N, ...) integers. Others stay as they are."""
    has_channel = targets.ndim > 3 and targets.shape == (len(logits), 1, *logits.shape[2:]) and logits.shape[1] > 1
    if not has_channel or targets.is_complex():
        return targets
    classes = targets.squeeze(1)
    is_whole = classes == classes.round() if classes.is_floating_point() else torch.ones_like(classes, dtype=torch.bool)
    return torch.where(is_whole, classes, NOT_A_CLASS).long()


def _put_back(logits: Tensor, targets: Tensor, entry: Tensor | None) -> tuple[Tensor, Tensor]:
    """Put the tokens that a step selected back at their positions among all tokens, and mark the others as ignored.

    If the number of selected tokens is not the number of labels in the entry, all of them are marked as no class. This
    is found out on the device, so that the step does not wait.
    """
    assert entry is not None
    is_selected = entry.to(targets.device).flatten() >= 0
    places = (is_selected.cumsum(0) - 1).clamp(0, len(targets) - 1)
    whole_targets = torch.where(is_selected.sum() == len(targets), targets[places], NOT_A_CLASS)
    return logits[places], torch.where(is_selected, whole_targets, IGNORED)
