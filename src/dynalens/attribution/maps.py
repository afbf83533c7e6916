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
    """Return maps without their channels, by one of three reductions.

    Args:
        maps: Shape ``(N, C, *spatial)``.
        how: "abs_max", the largest absolute value, by which Simonyan et al. 2014 show saliency; "abs_sum", the sum of
            absolute values; or "sum", the sum with signs.
        dim: Dimension of the channels. For maps of tokens, ``(N, T, C)``, it is -1.

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
    """Return one relevance for each pixel. Pictures show it, and the deletion curve replaces pixels in its order.

    If the map is a gradient, the relevance is the largest absolute value over the channels (Simonyan et al. 2014,
    section 3.1). All other maps, also those of Captum and of callables, hold contributions, and their channels are
    added up. If a map does not have the size of the images, it is resized (:func:`resize`).

    Args:
        method: Name of the method.
        maps: Its maps from :func:`explain`: ``(N, C, *spatial)`` or ``(N, *spatial)``.
        size: Height and width of the images, or the length of signals.

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
            f"{tuple(maps.shape)}. Let the method return maps of such a shape."
        )
    if maps.ndim == len(size) + 2:
        maps = reduce_channels(maps, "abs_max" if method in _GRADIENTS else "sum")
    return maps if tuple(maps.shape[1:]) == size else resize(maps, size)


def token_relevance(method: str, maps: Tensor) -> Tensor:
    """Return one relevance for each token. Pictures show it, and the deletion curve replaces tokens in its order.

    The channels of the embedding are reduced as :func:`pixel_relevance` reduces the channels of an image.

    Args:
        method: Name of the method.
        maps: Its maps from :func:`explain`: ``(N, T, C)`` or ``(N, T)``.

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
            "Let the method return maps of such a shape."
        )
    return reduce_channels(maps, "abs_max" if method in _GRADIENTS else "sum", dim=-1) if maps.ndim == 3 else maps


def resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Return maps at another size, by linear interpolation between the centres of the pixels.

    This is ``torch.nn.functional.interpolate`` with ``align_corners=False``, as in OpenCV and pytorch-grad-cam.
    Captum's default is the nearest pixel.

    Args:
        maps: Shape ``(N, *spatial)``, floating, with one to three spatial dimensions.
        size: The new length of each spatial dimension.

    Returns:
        Shape ``(N, *size)``.

    Raises:
        ValueError: If there is no spatial dimension or more than three.

    Example:
        >>> resize(Tensor([[0.0, 4.0]]), [4])  # a new centre lies a quarter between the old ones
        tensor([[0., 1., 3., 4.]])
    """
    if maps.ndim - 1 not in _INTERPOLATION:
        raise ValueError(
            f"Expected `maps` (N, *spatial) with one to three axes of space, got {tuple(maps.shape)}. Reduce the "
            "other axes first, as `reduce_channels` reduces the channels."
        )
    mode = _INTERPOLATION[maps.ndim - 1]
    return F.interpolate(maps.unsqueeze(1), size=tuple(size), mode=mode, align_corners=False).squeeze(1)
