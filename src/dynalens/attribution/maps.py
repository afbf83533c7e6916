"""From maps to one relevance for each pixel: reductions and resizing, which no method does silently."""

from collections.abc import Callable, Sequence

from torch import Tensor
from torch.nn import functional as F

from dynalens.arguments import check_choice

# The largest absolute gradient over channels is how Simonyan et al. 2014, section 3.1, show saliency. All other maps
# hold contributions, which add up.
_GRADIENTS = ("saliency", "smooth_grad", "interior_gradient", "guided_backprop", "deconvolution", "rect_grad")
_INTERPOLATION = {1: "linear", 2: "bilinear", 3: "trilinear"}


def reduce_channels(maps: Tensor, how: str = "abs_max", *, dim: int = 1) -> Tensor:
    """Return maps without their channels.

    Args:
        maps: Shape ``(N, C, *spatial)``.
        how: "abs_max" (largest absolute value, as Simonyan et al. show saliency), "abs_sum" or "sum" (signed).
        dim: Where the channels are: -1 for maps of tokens, ``(N, T, C)``.

    Returns:
        Shape ``(N, *spatial)``.

    Raises:
        ValueError: If ``how`` is unknown.

    Example:
        >>> import torch
        >>> reduce_channels(torch.tensor([[[1.0], [-3.0]]]), "sum")
        tensor([[-2.]])
    """
    reductions: dict[str, Callable[[Tensor], Tensor]] = {
        "abs_max": lambda m: m.abs().amax(dim=dim),
        "abs_sum": lambda m: m.abs().sum(dim=dim),
        "sum": lambda m: m.sum(dim=dim),
    }
    check_choice("how", how, reductions)
    return reductions[how](maps)


def pixel_relevance(method: str, maps: Tensor, size: Sequence[int]) -> Tensor:
    """Return one relevance for each pixel: what a picture shows and what deletion orders by.

    Gradients become their largest absolute value over channels (Simonyan et al. 2014, section 3.1); all other maps,
    Captum's and callables' included, their sum, as contributions add up. Maps of another size than the images are
    brought to it by :func:`resize`.

    Args:
        method: Name of the method.
        maps: What :func:`explain` gave for it: ``(N, C, *spatial)`` or ``(N, *spatial)``.
        size: Height and width of the images; the length of series.

    Returns:
        Shape ``(N, *size)``.

    Raises:
        ValueError: If the maps have another number of dimensions.

    Example:
        >>> maps = Tensor([[[[1.0, -4.0]], [[2.0, 3.0]]]])
        >>> pixel_relevance("saliency", maps, (1, 2)), pixel_relevance("input_x_gradient", maps, (1, 2))
        (tensor([[[2., 4.]]]), tensor([[[ 3., -1.]]]))
    """
    size = tuple(size)
    if maps.ndim not in (len(size) + 1, len(size) + 2):
        raise ValueError(
            f"Expected the maps of {method} to be (N, *spatial) or (N, C, *spatial) for images of size {size}, got "
            f"{tuple(maps.shape)}. Let the method return them so."
        )
    if maps.ndim == len(size) + 2:
        maps = reduce_channels(maps, "abs_max" if method in _GRADIENTS else "sum")
    return maps if tuple(maps.shape[1:]) == size else resize(maps, size)


def token_relevance(method: str, maps: Tensor) -> Tensor:
    """Return one relevance for each token: what a picture of words shows and what deletion orders by.

    Reduced over the channels of the embedding as :func:`pixel_relevance` does over those of an image.

    Args:
        method: Name of the method.
        maps: What :func:`explain` gave for it: ``(N, T, C)`` or ``(N, T)``.

    Returns:
        Shape ``(N, T)``.

    Raises:
        ValueError: If the maps have another number of dimensions.

    Example:
        >>> import torch
        >>> token_relevance("integrated_gradients", torch.tensor([[[1.0, -3.0]]]))
        tensor([[-2.]])
    """
    if maps.ndim not in (2, 3):
        raise ValueError(
            f"Expected the maps of {method} to be (N, T) or (N, T, C) for tokens (N, T), got {tuple(maps.shape)}. "
            "Let the method return them so."
        )
    return reduce_channels(maps, "abs_max" if method in _GRADIENTS else "sum", dim=-1) if maps.ndim == 3 else maps


def resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Return maps (N, *spatial) at another size, linear between centres with aligned outer edges of the pixels.

    This is ``torch.nn.functional.interpolate`` with ``align_corners=False``, as OpenCV and pytorch-grad-cam do it;
    Captum's default is nearest.

    Args:
        maps: Shape ``(N, *spatial)``, floating; one to three axes of space.
        size: The new length of each axis.

    Returns:
        Shape ``(N, *size)``.

    Raises:
        ValueError: If there are more axes of space than three, or none.

    Example:
        >>> resize(Tensor([[0.0, 4.0]]), [4])  # a new centre lies a quarter between the old ones
        tensor([[0., 1., 3., 4.]])
    """
    if maps.ndim - 1 not in _INTERPOLATION:
        raise ValueError(
            f"Expected `maps` (N, *spatial) with one to three axes of space, got {tuple(maps.shape)}. Reduce the "
            "others, as `reduce_channels` does channels."
        )
    mode = _INTERPOLATION[maps.ndim - 1]
    return F.interpolate(maps.unsqueeze(1), size=tuple(size), mode=mode, align_corners=False).squeeze(1)
