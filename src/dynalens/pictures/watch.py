"""Pictures and p(label) of the suspects of the last epoch, copied from the batches as they pass."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dynalens.dynamics import Array
from dynalens.pictures.copies import PassingCopies, by_shape
from dynalens.pictures.drawing import BLUE, ORANGE
from dynalens.pictures.inputs import Normalisation, shown_inputs, with_channels_first
from dynalens.pictures.masks import tinted_picture
from dynalens.pictures.words import numbers_text, without_end

_LONGEST_SIDE = 112
_LONGEST_SIGNAL = 448
_ROWS = 2
"""Number of axes of tokens ``(N, T)`` and of rows of numbers ``(N, F)``."""
_MOST_NUMBERS = 100
"""Most numbers of a row that are copied. A text shows fewer."""


class SuspectWatch:
    """Follows some samples: keeps small copies of their inputs, and their p(label) in each epoch.

    Nothing waits for the device in a step: copies stay there until :meth:`take` moves all of them to the host. Only
    followed samples are kept, so memory does not grow with the dataset.

    Args:
        normalisation: Normalisation that pictures undo; None: see :func:`to_rgb`.
        columns: Names of the numbers of rows that have as many; None: their positions.

    Attributes:
        pictures: Pictures of the followed samples that have passed.
        sentences: Ids of their tokens, if they are tokens.
        texts: Their first numbers as a text, if they are rows of numbers.

    Example:
        >>> watch = SuspectWatch()
        >>> watch.follow([5])
        >>> watch.see([4, 5], torch.tensor([0.0, 1.0]).view(2, 1, 1, 1))
        >>> watch.take()
        >>> watch.note(0, {"index": np.array([5, 4]), "p_label": np.array([0.25, 0.75])})
        >>> watch.pictures[5].tolist(), watch.trace(5).tolist()
        ([[[255, 255, 255]]], [0.25])
    """

    def __init__(self, normalisation: Normalisation | None = None, columns: Sequence[str] | None = None) -> None:
        self.normalisation, self._columns = normalisation, columns
        self._has_columns = False
        self.pictures: dict[int, Array] = {}
        self.sentences: dict[int, list[int]] = {}
        self.texts: dict[int, str] = {}
        self._traces: dict[int, dict[int, float]] = {}
        self._epochs: list[int] = []
        self._inputs, self._marks = PassingCopies(most_shapes=1), PassingCopies(most_shapes=1)

    def follow(self, samples: Sequence[int], device: torch.device | None = None) -> None:
        """Follow these samples from now on, and drop the others.

        Args:
            samples: Dataset indices.
            device: Device of batches that hold their own indices.
        """
        self._traces = {sample: self._traces.get(sample, {}) for sample in samples}
        self.pictures = {sample: self.pictures[sample] for sample in samples if sample in self.pictures}
        self.sentences = {sample: self.sentences[sample] for sample in samples if sample in self.sentences}
        self.texts = {sample: self.texts[sample] for sample in samples if sample in self.texts}
        self._inputs.follow(samples, device)
        self._marks.follow(samples, device)

    @property
    def follows(self) -> bool:
        """Whether any sample is followed."""
        return bool(self._traces)

    def see(self, indices: Sequence[int] | Tensor, inputs: Tensor | None) -> None:
        """Copy the inputs of followed samples. Does not wait for the device.

        Args:
            indices: Dataset index of each row.
            inputs: Shape ``(N, C, *spatial)``, tokens ``(N, T)`` or rows of numbers ``(N, F)``; None or another N:
                nothing is copied.
        """
        if inputs is None or not self._traces or len(inputs) != len(indices):
            return
        self._has_columns = self._columns is not None and inputs.shape[1:] == (len(self._columns),)
        self._inputs.offer(indices, inputs, small_copies)

    def mark(self, indices: Sequence[int] | Tensor, marks: Tensor) -> None:
        """Keep which pixels of suspects' masks a step contradicts, for the pictures. Does not wait for the device.

        Args:
            indices: Dataset index of each row.
            marks: Shape ``(N, H, W)``, others are left out: 1 for pixels of a given object that are not predicted, 2
                for predicted ones of an object that was not given, else 0.
        """
        if marks.ndim == 3:
            self._marks.offer(indices, marks.unsqueeze(1), lambda m: small_copies(m, pool=F.adaptive_max_pool2d))

    def take(self) -> None:
        """Move the copies to the host."""
        inputs, marks = self._inputs.take(), self._marks.take()
        for samples in by_shape(inputs):
            self._keep(samples, torch.cat([inputs[sample] for sample in samples]))
        for sample in marks.keys() & inputs.keys() & self.pictures.keys():
            self.pictures[sample] = picture_with_marks(self.pictures[sample], marks[sample].cpu())

    def _keep(self, samples: list[int], inputs: Tensor) -> None:
        """Keep inputs of one shape. All of them go to the host in one copy."""
        if inputs.ndim > _ROWS:
            self.pictures |= dict(zip(samples, shown_inputs(inputs, self.normalisation), strict=True))
        elif inputs.is_floating_point() or self._has_columns:
            names = self._columns if self._has_columns else None
            self.texts |= {row: numbers_text(x, names=names) for row, x in zip(samples, inputs.tolist(), strict=True)}
        else:
            self.sentences |= {row: without_end(tokens) for row, tokens in zip(samples, inputs.tolist(), strict=True)}

    def note(self, epoch: int, presentations: Mapping[str, Array]) -> None:
        """Keep the newest p(label) of each followed sample.

        Args:
            epoch: Its number.
            presentations: Arrays ``index`` and ``p_label``.
        """
        self._epochs.append(epoch)
        is_watched = np.isin(presentations["index"], list(self._traces))
        index, p_label = (presentations[name][is_watched].tolist() for name in ("index", "p_label"))
        for sample, p in zip(index, p_label, strict=True):
            self._traces[sample][epoch] = p

    def trace(self, sample: int) -> Array:
        """Return p(label) in each epoch so far. It is NaN in epochs in which the sample was not followed."""
        p_labels = self._traces.get(sample, {})
        return np.array([p_labels.get(epoch, np.nan) for epoch in self._epochs])


def picture_with_marks(picture: Array, marks: Tensor) -> Array:
    """Return a picture ``(H, W, 3)`` with coloured pixels: orange where marks are 1, and blue where they are 2.

    Args:
        picture: uint8; a signal is returned as it is.
        marks: Shape ``(1, 1, h, w)``.

    Example:
        >>> picture_with_marks(np.zeros((1, 2, 3), np.uint8), torch.tensor([[[[0.0, 1.0]]]])).tolist()
        [[[0, 0, 0], [128, 56, 0]]]
    """
    if picture.ndim != 3:
        return picture
    kinds = F.interpolate(marks, size=picture.shape[:2], mode="nearest")[0, 0].numpy()
    for kind, colour in enumerate((ORANGE, BLUE), start=1):
        picture = tinted_picture(picture, kinds == kind, colour)
    return picture


def small_copies(
    inputs: Tensor, longest_side: int = _LONGEST_SIDE, *, pool: Callable[..., Tensor] = F.adaptive_avg_pool2d
) -> Tensor:
    """Return copies of inputs. Those that are larger than a card are averaged, or reduced by ``pool``.

    Args:
        inputs: Shape ``(N, C, *spatial)``, tokens ``(N, T)`` or rows of numbers ``(N, F)``, of which the first 100 are
            copied. With three axes of space, the middle slice is copied.
        longest_side: Longest side of a picture, in pixels.
        pool: Function that reduces a picture.
    """
    if inputs.ndim == _ROWS:
        return (inputs[:, :_MOST_NUMBERS] if inputs.is_floating_point() else inputs).clone()
    x = inputs.float()
    if x.ndim == 5:  # N, C and three axes of space, of which the middle slice is shown
        x = x.select(2, x.shape[2] // 2)
    if x.ndim == 3:  # N, C and time
        return F.adaptive_avg_pool1d(x, _LONGEST_SIGNAL) if x.shape[2] > _LONGEST_SIGNAL else x.clone()
    x = with_channels_first(x)
    longest = max(x.shape[2:])
    if longest <= longest_side:
        return x.clone()
    height, width = (max(1, round(side * longest_side / longest)) for side in x.shape[2:])
    return pool(x, (height, width))


def small_map(relevance: Array, picture: Array) -> Array | None:
    """Return a map of an input at the size of the picture that shows its small copy; None if it fits no such picture.

    Args:
        relevance: Shape ``(H, W)`` or ``(L,)``.
        picture: As :func:`shown_inputs` returns it for :func:`small_copies`.

    Example:
        >>> small_map(np.ones((224, 448)), np.zeros((56, 112, 3), np.uint8)).shape
        (56, 112)
        >>> small_map(np.ones((32, 32)), np.zeros((32, 3, 3), np.uint8)) is None
        True
    """
    small: Array = small_copies(torch.from_numpy(relevance)[None, None])[0, 0].numpy()
    return small if small.shape == (picture.shape[:2] if picture.ndim == 3 else picture.shape[-1:]) else None
