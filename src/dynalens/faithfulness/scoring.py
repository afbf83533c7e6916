"""Probabilities and logits of many perturbed images. All metrics run the model through this module."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dynalens.arguments import check_choice
from dynalens.observation import checked_logits, floating_dtype, is_tokens, two_class_logits, undisturbed

Forward = Callable[[Tensor], Tensor]

PRECISIONS = ("float32", "bfloat16", "float16")
_CHANNELS_LAST_FROM = 128 * 128
"""Number of pixels from which a float32 convolution on a CPU is faster in the memory format channels_last: 1.0 times as
fast for 32 x 32 pixels, 1.3 times for 224 x 224."""


def chunk_size_for(images: Tensor) -> int:
    """Return the default number of images in one forward pass: few on a CPU, many on devices where each pass costs."""
    elements = images[:1].numel()
    if images.device.type == "cpu":
        return max(8, min(32, 2**20 // max(1, elements)))
    return max(32, min(1024, 2**24 // max(1, elements)))


def in_channels_last(images: Tensor) -> Tensor:
    """Return images (N, C, H, W) in the memory format channels_last.

    With one channel, both memory formats are the same bytes. Then ``contiguous`` changes nothing, and convolutions take
    the strides for those of the other format. So the strides are set here.
    """
    n, channels, height, width = images.shape
    images = images.contiguous(memory_format=torch.channels_last)
    return images.as_strided((n, channels, height, width), (channels * height * width, 1, width * channels, channels))


class Independent:
    """Marks a callable whose logits are those of independent labels. The probability of each is its logit's sigmoid.

    Args:
        run: Callable(images) -> logits (N, K).
    """

    def __init__(self, run: Forward) -> None:
        self._run = run

    def __call__(self, images: Tensor) -> Tensor:
        """Return the logits."""
        return self._run(images)


class Scorer:
    """Runs the model on images in chunks, and returns probabilities and logits in float32.

    The model may work in place on what it is given: it gets copies of images that are not perturbed.

    Args:
        run: Callable(images) -> logits. If samples have several labels, it is an :class:`Independent`.
        chunk_size: Number of images in one forward pass.
        channels_last: Whether to pass images in this memory format. A model that fails with it gets contiguous images.
    """

    def __init__(self, run: Forward, chunk_size: int, *, channels_last: bool = False) -> None:
        self.chunk_size = chunk_size
        self._run, self._channels_last = run, channels_last

    def probabilities(self, images: Tensor) -> Tensor:
        """Return the probabilities (N, K), float32, of one chunk of images."""
        return self._probabilities_of(self._logits(images))

    def target_probabilities(self, images: Tensor, targets: Tensor, logits: Tensor | None = None) -> Tensor:
        """Return the probability (N,) of each image's target; without a forward pass if the logits are passed."""
        if logits is not None:
            return class_values(self._probabilities_of(logits), targets)
        parts = zip(torch.split(images, self.chunk_size), torch.split(targets, self.chunk_size), strict=True)
        return torch.cat([class_values(self.probabilities(x.clone()), y) for x, y in parts])

    def logits(self, images: Tensor) -> Tensor:
        """Return the logits (N, K), float32, of any number of images."""
        parts = torch.split(images, self.chunk_size)
        return torch.cat([two_class_logits(self._logits(x.clone())).float() for x in parts])

    def target_logits(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return the logit (N,), float32, of each image's target."""
        return class_values(self.logits(images), targets)

    def perturbed_probabilities(self, views: "Perturbed", jobs: "Jobs", targets: Tensor) -> Tensor:
        """Return the probability (J,) of the target in each perturbed image."""
        classes = torch.split(targets.index_select(0, jobs.sample), self.chunk_size)
        parts = zip(jobs.split(self.chunk_size), classes, strict=True)
        return torch.cat([class_values(self.probabilities(views.images(part)), y) for part, y in parts])

    def _probabilities_of(self, logits: Tensor) -> Tensor:
        return class_probabilities(logits, independent=isinstance(self._run, Independent))

    def _logits(self, images: Tensor) -> Tensor:
        if not self._channels_last:
            return checked_logits(self._run(images))
        try:
            return checked_logits(self._run(in_channels_last(images)))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # for instance of a `view` that needs another layout; other errors are raised again below
            self._channels_last = False
            return checked_logits(self._run(images))


@dataclass(frozen=True)
class Jobs:
    """J perturbed images to score. All three attributes have the shape ``(J,)`` and are int64.

    Attributes:
        sample: Position of the sample in the batch.
        count: Number of units that are replaced by the baseline, or put back into it.
        insert: 1 if units are put back, 0 if they are replaced.
    """

    sample: Tensor
    count: Tensor
    insert: Tensor

    @classmethod
    def from_rows(cls, rows: Sequence[tuple[int, int, bool]], device: torch.device) -> "Jobs":
        """Return jobs for rows (sample, count, insert). They are copied to the device at once, without waiting."""
        return cls(*torch.tensor(rows, dtype=torch.int64).to(device, non_blocking=True).unbind(dim=1))

    def split(self, size: int) -> "Iterator[Jobs]":
        """Yield chunks of at most ``size`` jobs."""
        parts = zip(*(torch.split(column, size) for column in (self.sample, self.count, self.insert)), strict=True)
        return (Jobs(*part) for part in parts)


@dataclass(frozen=True)
class Perturbed:
    """What perturbed images are made of: the units of the lowest ranks are replaced, or they are the only ones left.

    Attributes:
        originals: The images, shape ``(N, C, *spatial)``.
        replacement: What replaced units show: the shape of the images, or ``(1, C, *spatial)``.
        ranks: The place of each unit in the order of falling relevance, shape ``(N, *spatial)``.
    """

    originals: Tensor
    replacement: Tensor
    ranks: Tensor

    def images(self, jobs: Jobs) -> Tensor:
        """Return one image for each job."""
        ranks = self.ranks.index_select(0, jobs.sample)
        column = (-1,) + (1,) * (ranks.ndim - 1)
        # Deletion leaves the ranks from the count on, insertion the ranks below it.
        is_original = (ranks < jobs.count.view(column)) == jobs.insert.view(column)
        originals = self.originals.index_select(0, jobs.sample)
        replacements = self.replacement if len(self.replacement) == 1 else self.replacement.index_select(0, jobs.sample)
        if not originals.is_floating_point():
            return torch.where(is_original.unsqueeze(1), originals, replacements)
        # With weights 0 and 1, this is exactly what `where` returns. It is five times faster on a CPU.
        return torch.lerp(replacements, originals, is_original.unsqueeze(1).to(originals))


def with_channel(model: nn.Module | Forward, images: Tensor, forward: Forward | None) -> tuple[Tensor, Forward | None]:
    """Return tokens (N, T) as (N, 1, T), with a callable that runs the model on them. Images stay as they are."""
    if not is_tokens(images):
        return images, forward
    run = forward or model

    def without_channel(x: Tensor) -> Tensor:
        return run(x.squeeze(1))

    return images.unsqueeze(1), Independent(without_channel) if isinstance(run, Independent) else without_channel


def class_values(values: Tensor, classes: Tensor) -> Tensor:
    """Return from each row of values (N, K) the value of its class, (N,)."""
    return values.gather(1, classes.unsqueeze(1)).squeeze(1)


def class_probabilities(logits: Tensor, *, independent: bool) -> Tensor:
    """Return probabilities (N, K), float32: those of independent labels, or those of classes, which sum to 1.

    Example:
        >>> class_probabilities(torch.tensor([[0.0, 0.0]]), independent=True)
        tensor([[0.5000, 0.5000]])
    """
    logits = two_class_logits(logits).float()
    return logits.sigmoid() if independent else logits.softmax(dim=1)


def class_logits(
    model: nn.Module | Forward, images: Tensor, *, forward: Forward | None = None, chunk_size: int | None = None
) -> Tensor:
    """Return the logits (N, K), float32, of a model in evaluation mode. The model is left as it was.

    Example:
        >>> class_logits(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout()), torch.tensor([[[[1.0, 3.0]]]]))
        tensor([[1., 3.]])
    """
    with scoring(model, images, forward=forward, chunk_size=chunk_size) as (scorer, x):
        return scorer.logits(x)


@contextmanager
def scoring(
    model: nn.Module | Forward,
    images: Tensor,
    *,
    forward: Forward | None = None,
    precision: str = "float32",
    chunk_size: int | None = None,
) -> Iterator[tuple[Scorer, Tensor]]:
    """Yield a scorer, and the images in the model's dtype. Meanwhile no gradients are computed.

    The model runs in evaluation mode and is left as it was.
    """
    guard: AbstractContextManager[None] = nullcontext()
    if isinstance(model, nn.Module):
        guard = undisturbed(model)
        images = images.to(floating_dtype(model, images)) if images.is_floating_point() else images
    check_choice("precision", precision, PRECISIONS)
    is_faster = images.device.type == "cpu" and images.shape[2:].numel() >= _CHANNELS_LAST_FROM
    size = chunk_size if chunk_size is not None else chunk_size_for(images)
    scorer = Scorer(forward or model, size, channels_last=images.ndim == 4 and (precision != "float32" or is_faster))
    with guard, torch.no_grad(), _autocast(images.device.type, precision):
        yield scorer, images.detach()


@contextmanager
def _autocast(device: str, precision: str) -> Iterator[None]:
    if precision == "float32":
        yield
        return
    try:
        # One context for all chunks, so that weights are converted only once.
        with torch.autocast(device, dtype=getattr(torch, precision)):
            yield
    finally:
        # Its copies of the weights have no graph, so a training step must not use them.
        torch.clear_autocast_cache()
