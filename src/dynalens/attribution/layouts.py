"""Where the channels and the positions stand in the outputs of layers, for convolutions and transformers."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dynalens.attribution.passes import Arrange
from dynalens.observation import Channels, are_last, own_channels

_MOST_PREFIX_TOKENS = 16  # class and register tokens before the tokens of the patches
_ROUNDING = 0.1  # how far, as a logarithm, the proportions of a feature map are from those of the image


class Layouts:
    """The layouts of the outputs of one forward pass. Layers are asked for in the order in which they finish.

    Args:
        x: The image that the model is given, shape ``(1, C, *spatial)``. Outputs have a graph that reaches it.
    """

    def __init__(self, x: Tensor) -> None:
        self._x = x
        self._sizes: list[torch.Size] = []
        self._channels: dict[int, Channels] = {}  # of the last layer whose type tells, by number of dimensions
        self._grids: dict[int, tuple[int, int] | None] = {}

    def arrange(self, module: nn.Module, output: Tensor) -> Arrange | None:
        """Return a callable that brings outputs of the layer to (N, C, *spatial); None if they have no positions."""
        shape, image = output.shape, self._x.shape
        channels = own_channels(module, shape) or self._channels.get(len(shape))
        if channels is not None:
            self._channels[len(shape)] = channels
        is_last = are_last(shape, channels)
        if len(shape) == len(image):
            is_last = _channels_last(module, shape, image) if is_last is None else is_last
            size = shape[1:-1] if is_last else shape[2:]
            if size.numel() < 2:
                return None
            self._sizes.append(size)
            return _to_channels_first if is_last else as_it_is
        return self.of_tokens(shape[1], output) if len(shape) == 3 and is_last is not False else None

    def of_tokens(self, number: int, output: Tensor | None = None) -> Arrange | None:
        """Return a callable that lays so many tokens (N, T, C) out on a grid, or None if they stand for no patches.

        Args:
            number: T.
            output: The output of the layer that has just finished. The first one of so many tokens is looked at.
        """
        if len(self._x.shape) != 4:
            return None
        if number not in self._grids:
            if output is not None and nan_gradients(output, [self._x])[0] is None:  # as the embedding of positions
                return None
            self._grids[number] = self._grid(number, output)
        grid = self._grids[number]
        if grid is None:
            return None
        height, width = grid

        def on_the_grid(tokens: Tensor) -> Tensor:
            return tokens[:, number - height * width :].transpose(1, 2).reshape(len(tokens), -1, height, width)

        return on_the_grid

    def _grid(self, number: int, output: Tensor | None) -> tuple[int, int] | None:
        """Return the size of the last feature map that fits the number, or else one of the image's proportions."""
        sizes = [size for size in self._sizes if 0 <= number - math.prod(size) <= _MOST_PREFIX_TOKENS]
        if sizes:
            return sizes[-1][0], sizes[-1][1]
        rows, columns = self._x.shape[2:]
        height = math.isqrt(number * rows // columns)
        width = height * columns // rows
        prefix = number - height * width
        if not 0 <= prefix <= _MOST_PREFIX_TOKENS or height * width < 2:
            return None
        is_patch = output is None or self._is_first_patch(output[:, prefix], height, width)
        return (height, width) if is_patch else None

    def _is_first_patch(self, token: Tensor, height: int, width: int) -> bool:
        """Return whether a token depends on pixels of the first patch, or on all. One of a row or column does not."""
        (gradient,) = nan_gradients(token, [self._x])
        assert gradient is not None
        is_read = gradient[0].isnan().any(dim=0)
        row, column = is_read.nonzero().double().mean(dim=0).tolist()
        return bool(is_read.all()) or (row * height < len(is_read) and column * width < is_read.shape[1])


def as_it_is(output: Tensor) -> Tensor:
    """Return the output, whose channels come first."""
    return output


def _to_channels_first(output: Tensor) -> Tensor:
    return output.movedim(-1, 1)


def nan_gradients(logits: Tensor, outputs: list[Tensor]) -> list[Tensor | None]:
    """Return the gradient at each output when NaN is sent back: it is NaN where the logits depend on the output."""
    differentiable = [output for output in outputs if output.requires_grad]
    if not logits.requires_grad or not differentiable:
        return [None] * len(outputs)
    with torch.autograd.set_detect_anomaly(False):  # it would stop at NaN
        gradients = iter(
            torch.autograd.grad(
                logits, differentiable, torch.full_like(logits, torch.nan), allow_unused=True, retain_graph=True
            )
        )
    return [next(gradients) if output.requires_grad else None for output in outputs]


def has_proportions(shape: torch.Size, image: torch.Size) -> bool:
    """Return whether the last two of four dimensions, and not the two before, have the proportions of the image."""
    return len(shape) == len(image) == 4 and (
        _distortion(shape[2:], image) < _ROUNDING < _distortion(shape[1:3], image)
    )


def _distortion(size: Sequence[int], image: Sequence[int]) -> float:
    """Return how far the ratio of two sides is from that of the image, as the absolute logarithm of their quotient."""
    return abs(math.log(size[0] / size[1] * image[3] / image[2]))


def _channels_last(module: nn.Module, shape: torch.Size, image: torch.Size) -> bool:
    """Return whether the channels of a layer come last, by its parts or by the proportions of the image."""
    if len(image) == 3:  # a series: a block of a transformer has norms over the last dimension
        parts = list(module.modules())
        keeps_axis = shape[1] == image[2] != shape[2]  # as a linear layer that is given the steps before the channels
        has_norm = any(isinstance(part, nn.LayerNorm) for part in parts)
        return has_norm or (keeps_axis and all(own_channels(part, shape) is None for part in parts))
    return len(image) == 4 and _distortion(shape[1:3], image) < _distortion(shape[2:], image)
