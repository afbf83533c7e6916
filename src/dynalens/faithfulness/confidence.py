"""The target's probability in the image multiplied by its map: average drop and increase of confidence."""

import torch
from torch import Tensor, nn

from dynalens.faithfulness.checks import check_finite, check_shapes
from dynalens.faithfulness.scoring import Forward, scoring


def average_drop(
    model: nn.Module | Forward,
    images: Tensor,
    targets: Tensor,
    maps: Tensor,
    *,
    forward: Forward | None = None,
    logits: Tensor | None = None,
    precision: str = "float32",
    chunk_size: int | None = None,
) -> Tensor:
    r"""Return the fraction of the target's probability that is lost when the image is multiplied by its map.

    Lower is better.

    :math:`\max(0, p(x) - p(x \cdot m)) / p(x)`, where :math:`p` is the probability of the target, :math:`x` the image
    and :math:`m` its map, scaled to [0, 1]. A constant map counts as 1 everywhere. The mean over images, times 100, is
    the percentage of the source.

    Source: Chattopadhay et al., "Grad-CAM++", WACV 2018, section 4.1.1.

    Args:
        model: This and all arguments that are not listed here: see :func:`faithfulness_curves`.
        precision: See :class:`CurveSettings`.
        chunk_size: Number of images in one forward pass.

    Returns:
        Shape ``(N,)``, float32, in [0, 1].

    Raises:
        ValueError: If shapes do not agree or a map is not finite.

    Example:
        The map scales to 0 and 1, so that only the pixel of 5 is left.

        >>> score = lambda x: torch.stack([x.sum(dim=(1, 2, 3)), torch.zeros(len(x))], dim=1)
        >>> image, target = torch.tensor([[[[1.0, 5.0]]]]), torch.tensor([0])
        >>> average_drop(score, image, target, torch.tensor([[[3.0, 4.0]]]))  # from sigmoid(6) to sigmoid(5)
        tensor([0.0042])
    """
    p_image, p_masked = masked_probabilities(
        model, images, targets, maps, forward=forward, logits=logits, precision=precision, chunk_size=chunk_size
    )
    return drop_of(p_image, p_masked)


def average_increase(
    model: nn.Module | Forward,
    images: Tensor,
    targets: Tensor,
    maps: Tensor,
    *,
    forward: Forward | None = None,
    logits: Tensor | None = None,
    precision: str = "float32",
    chunk_size: int | None = None,
) -> Tensor:
    """Return 1 if the target is more probable when the image is multiplied by its map, else 0. Higher is better.

    The mean over images is the "increase in confidence" of the source.

    Source: Chattopadhay et al., "Grad-CAM++", WACV 2018, section 4.1.2.

    Args:
        model: This and all arguments that are not listed here: see :func:`average_drop`.

    Returns:
        Shape ``(N,)``, float32, 0 or 1.

    Raises:
        ValueError: As for :func:`average_drop`.

    Example:
        The map scales to 0 and 1, which removes the pixel that speaks against the target.

        >>> score = lambda x: torch.stack([x.sum(dim=(1, 2, 3)), torch.zeros(len(x))], dim=1)
        >>> image, target = torch.tensor([[[[-1.0, 5.0]]]]), torch.tensor([0])
        >>> average_increase(score, image, target, torch.tensor([[[0.0, 4.0]]]))  # from sigmoid(4) to sigmoid(5)
        tensor([1.])
    """
    p_image, p_masked = masked_probabilities(
        model, images, targets, maps, forward=forward, logits=logits, precision=precision, chunk_size=chunk_size
    )
    return increase_of(p_image, p_masked)


def drop_of(p_image: Tensor, p_masked: Tensor) -> Tensor:
    """Return :func:`average_drop` from the probabilities for the image and for the image times its map."""
    return (p_image - p_masked).relu() / p_image.clamp(min=torch.finfo(p_image.dtype).tiny)


def increase_of(p_image: Tensor, p_masked: Tensor) -> Tensor:
    """Return :func:`average_increase` from the probabilities for the image and for the image times its map."""
    return (p_masked > p_image).float()


def masked_probabilities(
    model: nn.Module | Forward,
    images: Tensor,
    targets: Tensor,
    maps: Tensor,
    *,
    forward: Forward | None = None,
    logits: Tensor | None = None,
    precision: str = "float32",
    chunk_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the target's probability (N,) for the images, and for the images times their maps scaled to [0, 1]."""
    check_shapes(images, targets, maps)
    check_finite(maps)
    axes = tuple(range(1, maps.ndim))
    low, high = maps.float().amin(axes, keepdim=True), maps.float().amax(axes, keepdim=True)
    unit_maps = torch.where(high > low, (maps - low) / (high - low), 1.0)
    with scoring(model, images, forward=forward, precision=precision, chunk_size=chunk_size) as (scorer, x):
        p_masked = scorer.target_probabilities(x * unit_maps.unsqueeze(1).to(x), targets)
        return scorer.target_probabilities(x, targets, logits), p_masked
