"""Four corruptions of images, and the margins in corrupted images."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dynalens.arguments import check_any, check_choice
from dynalens.faithfulness import blurred, class_logits

Forward = Callable[[Tensor], Tensor]

# Severity 5 in the code of CIFAR-10-C (Hendrycks and Dietterich, ICLR 2019). Its images are in [0, 1] and 32 wide.
_NOISE = 0.1
_BLUR = 1 / 32
_BRIGHTER = 0.3
_CONTRAST = 0.15


class Bounds(NamedTuple):
    """The lowest and the highest value of each channel, in shapes that broadcast to the images."""

    low: Tensor
    high: Tensor

    @property
    def span(self) -> Tensor:
        """The highest value minus the lowest one."""
        return self.high - self.low


def bounds_of(images: Tensor, bounds: tuple[float, float] | None) -> Bounds:
    """Return the bounds as tensors; without bounds, the lowest and the highest value of each channel of the images.

    Args:
        images: Shape ``(N, C, *spatial)``.
        bounds: Lowest and highest value, the same for all channels, or None.

    Raises:
        ValueError: If the lowest value is not below the highest one, or if there are neither bounds nor images.
    """
    if bounds is not None:
        low, high = bounds
        if not low < high:
            raise ValueError(
                f"Expected `bounds` to be the lowest and the highest value of an input, got {bounds}. "
                "Pass (0, 1) for images that are not normalised."
            )
        return Bounds(images.new_tensor(low), images.new_tensor(high))
    check_any(images)
    dims = (0, *range(2, images.ndim))
    return Bounds(images.amin(dim=dims, keepdim=True), images.amax(dim=dims, keepdim=True))


def _with_noise(images: Tensor, bounds: Bounds, seed: int) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed)).to(images)
    return images + _NOISE * bounds.span * noise


def _with_blur(images: Tensor, _bounds: Bounds, _seed: int) -> Tensor:
    return blurred(images, _BLUR * max(images.shape[2:]))


def _brighter(images: Tensor, bounds: Bounds, _seed: int) -> Tensor:
    return images + _BRIGHTER * bounds.span


def _with_less_contrast(images: Tensor, _bounds: Bounds, _seed: int) -> Tensor:
    mean = images.mean(dim=tuple(range(2, images.ndim)), keepdim=True)
    return mean + _CONTRAST * (images - mean)


CORRUPTIONS: dict[str, Callable[[Tensor, Bounds, int], Tensor]] = {
    "gaussian_noise": _with_noise,
    "blur": _with_blur,
    "brightness": _brighter,
    "contrast": _with_less_contrast,
}


def corrupted(images: Tensor, corruption: str, *, bounds: tuple[float, float] | None = None, seed: int = 0) -> Tensor:
    r"""Return images with one of four corruptions. Their values stay within the bounds.

    If r is the range of the values, "gaussian_noise" adds noise with a standard deviation of 0.1 r. "blur" is a
    Gaussian blur with a standard deviation of 1/32 of the longest side. "brightness" adds 0.3 r. "contrast" changes
    values to :math:`\bar x + 0.15 (x - \bar x)`, where :math:`\bar x` is the mean of each image and channel.

    Source: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations",
    ICLR 2019, the strongest severity for images of 32 x 32. The source changes brightness as the value in HSV. Here it
    is added to each channel, so that it is defined for any number of channels.

    Args:
        images: Shape ``(N, C, *spatial)``, floating. Not modified.
        corruption: "gaussian_noise", "blur", "brightness" or "contrast".
        bounds: Lowest and highest value of an input. Default: those of each channel of the images.
        seed: Seed of the noise. The noise is the same in each call. Torch's own generator is not used.

    Returns:
        Shape and dtype of ``images``.

    Raises:
        ValueError: If the corruption is unknown, or the lower bound is not below the upper one.

    Example:
        >>> corrupted(torch.tensor([[[[0.0, 0.5, 1.0]]]]), "brightness")
        tensor([[[[0.3000, 0.8000, 1.0000]]]])
    """
    check_choice("corruption", corruption, CORRUPTIONS)
    limits = bounds_of(images, bounds)
    return CORRUPTIONS[corruption](images, limits, seed).clamp(limits.low, limits.high)


def corrupted_margins(
    model: nn.Module | Forward,
    images: Tensor,
    labels: Tensor,
    corruption: str | None = None,
    *,
    bounds: tuple[float, float] | None = None,
    seed: int = 0,
    forward: Forward | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    r"""Return the margin of each label in corrupted images: its logit minus the largest logit of another class.

    :math:`z_y - \max_{k \ne y} z_k`, where :math:`z` are the logits of the corrupted image and y is the label. If it is
    positive, the prediction is right. The model runs in evaluation mode and is left as it was. It costs one forward
    pass.

    Args:
        model: Returns logits (N, K).
        images: This and all arguments that are not listed here: see :func:`corrupted`.
        labels: Shape ``(N,)``, int64, in [0, K).
        corruption: Name of a corruption, or None for the original images.
        forward: Callable(images) that returns logits. Default: ``model``.
        chunk_size: Number of images in one forward pass.

    Returns:
        Shape ``(N,)``, float32, in units of the logit.

    Raises:
        ValueError: As for :func:`corrupted`, and if a margin is not finite.

    Example:
        The logits are the two pixels. They differ by 4, and with less contrast by 0.15 times 4.

        >>> logits = lambda x: x.flatten(1)
        >>> images, labels = torch.tensor([[[[5.0, 1.0]]]]), torch.tensor([0])
        >>> corrupted_margins(logits, images, labels), corrupted_margins(logits, images, labels, "contrast")
        (tensor([4.]), tensor([0.6000]))
    """
    corrupted_images = images if corruption is None else corrupted(images, corruption, bounds=bounds, seed=seed)
    margins = lead(class_logits(model, corrupted_images, forward=forward, chunk_size=chunk_size), labels)
    if not bool(margins.isfinite().all()):
        raise ValueError(
            "Expected finite logits of at least two classes, got NaN, infinity or a single class. Check that the "
            "weights, the images and `bounds` are finite, and that the model returns logits of shape (N, K)."
        )
    return margins


def lead(logits: Tensor, classes: Tensor) -> Tensor:
    """Return the logit of a class minus the largest logit of the other classes, (N,), with its graph."""
    columns = classes.unsqueeze(1)
    label_logits = logits.gather(1, columns).squeeze(1)
    return label_logits - logits.scatter(1, columns, float("-inf")).amax(dim=1)
