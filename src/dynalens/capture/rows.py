"""Bring the logits and targets of steps, which come in several shapes, to rows of logits with one class each."""

import torch
from torch import Tensor

from dynalens.capture.batch import CaptureError
from dynalens.capture.graph import SOFTMAX, comes_from, is_behind
from dynalens.capture.soft import FixedLevels, tolerance_of
from dynalens.dynamics import NOT_A_CLASS
from dynalens.observation import two_class_logits
from dynalens.units import MOST_LABELS

_REMEDY = (
    "Return a dict of `loss`, and of `logits` (N, K) and `targets` (N,) with one class for each sample, in the order "
    "of the batch, from `training_step`."
)
_OF_LABELS = (
    " If a sample may have several labels, `targets` are (N, K): 1 or 0 for each label, and -100 where one does not "
    "count."
)
_OF_PAIRS = (
    "If these are pairs of samples, as a contrastive loss has them, they are no classes: return a dict of `loss`, and "
    "of `logits` and `targets` of a classifier that is trained beside, or leave the monitor out. Else return"
)
_SOFT_UNITS = (
    "Targets that are neither 0 nor 1 name no class: return a dict of `loss`, and of `logits` (N, K, H, W) and "
    "`targets` (N, H, W), or of one logit for each pixel and `targets` that are 1, 0, or -100 where a pixel does not "
    "count."
)
_CLASSES_LAST = (
    "Put the classes of tokens and pixels on the second axis, as `cross_entropy` takes them: `logits.movedim(-1, 1)`."
)

_SUM = 0.01
"""How far from 1 probabilities may sum up: halves of bfloat16 have three digits, and a constant may be added."""

Rows = tuple[Tensor, Tensor, str]


class CapturedRows:
    """Bring logits and targets of all steps of a fit to one form.

    The first batch decides what floating targets mean.
    """

    def __init__(self) -> None:
        self._levels = FixedLevels()
        self.takes_logarithm: bool | None = None
        """Whether the inputs of ``nll_loss`` are probabilities, whose logarithm is taken; None before the first
        batch."""
        self._weighs: bool | None = None

    def weighs(self, values: Tensor) -> bool:
        """Return whether inputs of ``nll_loss`` are log-probabilities times factors, as focal losses have them.

        Their margins are not those of the logits, which the softmax before the factors shows. Waits for the device in
        the first batch only.
        """
        if comes_from(values, SOFTMAX) or not is_behind(values, SOFTMAX):
            return False
        if self._weighs is None and values.numel():
            probabilities, axis = values.detach().float(), min(values.ndim - 1, 1)
            sums = torch.stack([probabilities.exp().sum(dim=axis), probabilities.sum(dim=axis)])
            self._weighs = not bool(((sums - 1).abs() < _SUM).all(dim=-1).any())
        return bool(self._weighs)

    def log_probabilities(self, values: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return inputs of ``nll_loss`` as log-probabilities, and their targets.

        If each row of the first batch has numbers from 0 to 1 that sum to 1, they are probabilities. In later batches,
        rows that are not are marked.
        """
        classes = min(values.ndim - 1, 1)
        is_off = (values.sum(dim=classes, dtype=torch.float32) - 1).abs() > tolerance_of(values)
        rows = (values >= 0).all(dim=classes) & ~is_off
        if self.takes_logarithm is None:
            self.takes_logarithm = bool(rows.all())
        if not self.takes_logarithm:
            return values, targets
        tiny = torch.finfo(values.dtype).tiny
        return values.detach().clamp(min=tiny).log(), torch.where(rows, targets, NOT_A_CLASS)

    def checked(self, logits: Tensor, targets: Tensor, source: str) -> Rows:
        """Return rows of logits (N, K), the class of each (N,), and where they were found.

        Args:
            logits: Shape ``(N, K)``, or ``(N,)``, ``(N, 1)`` or ``()`` of two classes.
            targets: One class for each row, or floating ones that name one.
            source: Where both were found.

        Raises:
            CaptureError: If they have other shapes, or name no classes.
        """
        binary = logits.numel() == targets.numel() and _is_vector(logits) and _is_vector(targets)
        return self._two_classes(logits, targets, source) if binary else self.classes(logits, targets, source)

    def classes(self, logits: Tensor, targets: Tensor, source: str) -> Rows:
        """Do the same as :meth:`checked` for logits of two or more classes."""
        logits, targets = _without_single_axes(logits.detach(), targets.detach())
        if logits.ndim != 2 or logits.shape[1] < 2:
            is_soft = targets.numel() == logits.numel() and targets.ndim > 2
            raise CaptureError(
                "Expected logits of shape (N, K) with K >= 2 classes, (N, K, T) of tokens or (N, K, H, W) of pixels, "
                f"and one class for each, got {tuple(logits.shape)} and targets {tuple(targets.shape)}, "
                f"{targets.dtype} ({source}). {_SOFT_UNITS if is_soft else _CLASSES_LAST} Else pass `capture=` with a "
                "callable(outputs, batch) -> (logits, targets) that picks one row of logits for each sample."
            )
        step_targets, of_rows = targets, ""
        if targets.shape == logits.shape:
            targets = self._levels.rows(targets)
            of_rows = f" (the class with the {'largest target' if self._levels.smoothed else 'target 1'})"
        elif targets.is_floating_point():
            raise _soft(logits, step_targets, source)
        if targets.shape != logits.shape[:1] or (step_targets.ndim == 2 and not self._levels.is_known):
            raise _soft(logits, step_targets, source)
        return logits, targets.long(), source + of_rows

    def _two_classes(self, logits: Tensor, targets: Tensor, source: str) -> Rows:
        classes = self._levels.binary(targets.detach().flatten())
        if not self._levels.is_known:
            num_odd = int((classes == NOT_A_CLASS).sum())
            raise CaptureError(
                f"Expected binary targets to be 0 or 1, or both smoothed by a fixed amount, got {num_odd} other values "
                f"in this batch ({source}). {_REMEDY}"
            )
        source += " (two smoothed classes)" if self._levels.smoothed else " (two classes)"
        return two_class_logits(logits.detach().reshape(-1, 1)), classes, source


def _is_vector(values: Tensor) -> bool:
    return values.shape[1:] in ((), (1,))


def _without_single_axes(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return a squeezed batch of one with its first axis again, and drop axes of length one after the classes."""
    if logits.ndim == 1 and targets.numel() in (1, len(logits)):
        logits, targets = logits.unsqueeze(0), targets.reshape(1, -1)
    while logits.ndim > 2 and logits.shape[-1] == 1:
        logits = logits.squeeze(-1)
        targets = targets.squeeze(-1) if targets.ndim > 1 else targets
    return logits, targets.flatten() if targets.shape[1:] == (1,) else targets


def _soft(logits: Tensor, targets: Tensor, source: str) -> CaptureError:
    if targets.ndim == 1 and not targets.is_floating_point():
        return CaptureError(
            f"Expected one class index for each of {len(logits)} rows of logits, got {len(targets)} ({source}). Return "
            "a dict of `loss`, and `logits` and `targets` with a row for each sample, in the order of the batch, with "
            "-100 as the target of rows left out."
        )
    if targets.ndim == 2 and targets.shape[1] > MOST_LABELS and targets.shape == logits.shape:
        return CaptureError(
            f"Expected at most {MOST_LABELS} labels for each sample, or one class for each, got targets of shape "
            f"{tuple(targets.shape)}, {targets.dtype} ({source}). To record {MOST_LABELS} or fewer of the labels, "
            "return a dict of `loss`, and of their columns of `logits` and `targets`. Else leave the monitor out."
        )
    are_square = targets.shape == (len(logits), len(logits))
    remedy = _OF_PAIRS + _REMEDY.removeprefix("Return") if are_square else _REMEDY + _OF_LABELS
    return CaptureError(
        f"Expected one class index for each of {len(logits)} rows of logits, got targets of shape "
        f"{tuple(targets.shape)}, {targets.dtype}: soft, mixed or multi-label targets ({source}). {remedy}"
    )
