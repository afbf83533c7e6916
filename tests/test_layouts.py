"""Class activation maps know channels from positions in outputs of all kinds of layers."""

import pytest
import torch
from torch import Tensor, nn

from dynalens import find_target_layer
from dynalens.attribution import grad_cam

Y = torch.tensor([0, 2])


def map_by_hand(model: nn.Module, x: Tensor, layer: str, channels: int) -> Tensor:
    """Return ReLU of the sum over channels of their mean gradient times their values, if they stand in this axis."""
    outputs: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda _module, _args, output: outputs.append(output))
    logits = model(x.clone().requires_grad_())
    handle.remove()
    (gradient,) = torch.autograd.grad(logits[range(2), Y].sum(), outputs[-1:])
    values, gradient = outputs[-1].detach().movedim(channels, 1), gradient.movedim(channels, 1)
    weights = gradient.flatten(2).mean(dim=2).view(*values.shape[:2], *[1] * (values.ndim - 2))
    return sum((weights[:, c] * values[:, c] for c in range(values.shape[1])), torch.zeros(())).relu()


class Block(nn.Module):
    """Layers in a module of an unknown type, squared, so that gradients differ between positions."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out**2


class Head(nn.Module):
    """Logits of the mean over all positions."""

    def __init__(self, channels: int, axis: int = 1) -> None:
        super().__init__()
        self.axis, self.linear = axis, nn.Linear(channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x.movedim(self.axis, 1).flatten(2).mean(dim=2))
        return out


class Move(nn.Module):
    """Channels from one axis to another."""

    def __init__(self, source: int, target: int) -> None:
        super().__init__()
        self.axes = source, target

    def forward(self, x: Tensor) -> Tensor:
        return x.movedim(*self.axes)


class NormFirst(nn.LayerNorm):
    """A norm over channels that come first, as timm and torchvision have it."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def series_block(channels: int) -> nn.Module:
    """Return a block of a ConvNeXt for series: it has channels last inside, and first outside."""
    conv = nn.Conv1d(channels, channels, 7, padding=3, groups=channels)
    return Block(conv, Move(1, -1), nn.LayerNorm(channels), nn.Linear(channels, channels), Move(-1, 1))


CASES: dict[str, tuple[list[nn.Module], tuple[int, ...], str, int]] = {
    "one row of a spectrogram": ([Block(nn.Conv2d(1, 8, (16, 1)), nn.ReLU()), Head(8)], (1, 16, 25), "0", 1),
    "one row with channels last": (
        [nn.Conv2d(1, 12, (16, 1)), Move(1, -1), Block(nn.LayerNorm(12)), Head(12, axis=-1)], (1, 16, 16), "2", -1,
    ),
    "pooled to one row": ([nn.Conv2d(1, 4, 3), nn.MaxPool2d((14, 1)), Block(), Head(4)], (1, 16, 16), "2", 1),
    "norm over positions": ([nn.Conv2d(1, 8, 3), Block(), nn.LayerNorm([8, 6, 6]), Head(8)], (1, 8, 8), "2", 1),
    "norm with channels first": ([nn.Conv2d(1, 6, 3), Block(), NormFirst(6), Head(6)], (1, 8, 8), "2", 1),
    "block of series": ([nn.Conv1d(2, 6, 4, 4), series_block(6), Head(6)], (2, 40), "1", 1),
    "block of series with all steps": ([nn.Conv1d(2, 6, 3, padding=1), series_block(6), Head(6)], (2, 40), "1", 1),
    "volume": ([nn.Conv3d(1, 6, 2, 2), Move(1, -1), Block(nn.LayerNorm(6)), Head(6, axis=-1)], (1, 4, 6, 10), "2", -1),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_map_has_the_positions_of_its_layer(case: str) -> None:
    layers, shape, layer, channels = CASES[case]
    torch.manual_seed(0)
    model, x = nn.Sequential(*layers).eval(), torch.randn(2, *shape)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    assert find_target_layer(model, x) == layer
    expected = map_by_hand(model, x, layer, channels)
    assert expected.any()
    torch.testing.assert_close(grad_cam(model, x, Y), expected)
    torch.testing.assert_close(grad_cam(model, x, Y, target_layer=layer), expected)


class Spectrograms(nn.Module):
    """A network that averages over the frequencies and goes on in time."""

    def __init__(self) -> None:
        super().__init__()
        self.images, self.series = Block(nn.Conv2d(1, 8, 3, padding=1)), nn.Sequential(nn.Conv1d(8, 12, 3), nn.ReLU())
        self.head = Head(12)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.series(self.images(x).mean(dim=2)))
        return out


def test_channels_of_series_are_not_laid_out_as_patches() -> None:
    assert find_target_layer(Spectrograms().eval(), torch.randn(2, 1, 16, 36)) == "images"


class Frames(nn.Module):
    """A transformer whose tokens are the rows or the columns of an image."""

    def __init__(self, side: int, axis: int) -> None:
        super().__init__()
        self.axis, self.embedding, self.norm, self.head = axis, nn.Linear(side, 8), nn.LayerNorm(8), Head(8, axis=-1)
        self.positions = nn.Embedding(99, 8)
        self.mixing = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        frames = x[:, 0].movedim(self.axis, 1)
        frames = self.positions(torch.arange(frames.shape[1])[None]) + self.embedding(frames)
        out: Tensor = self.head(self.norm(self.mixing(frames)))
        return out


@pytest.mark.parametrize(("size", "axis"), [((28, 28), 1), ((16, 16), 1), ((16, 16), 2), ((12, 25), 2)])
def test_rows_and_columns_are_not_laid_out_as_patches(size: tuple[int, int], axis: int) -> None:
    model, x = Frames(size[2 - axis], axis).eval(), torch.randn(2, 1, *size)
    with pytest.raises(ValueError, match="feature maps, of which class activation maps are made"):
        find_target_layer(model, x)


@pytest.mark.parametrize("has_module", [True, False], ids=["embedded by a layer", "first seen when they are mixed"])
def test_patches_without_a_convolution_are_laid_out(*, has_module: bool) -> None:
    class Patches(Frames):
        def forward(self, x: Tensor) -> Tensor:
            patches = x.unfold(2, 4, 4).unfold(3, 4, 4).flatten(4).flatten(2, 3)[:, 0]
            tokens = self.embedding(patches) if has_module else patches @ self.embedding.weight.T
            out: Tensor = self.head(self.norm(self.mixing(tokens)) ** 2)
            return out

    torch.manual_seed(0)
    model, x = Patches(16, 1).eval(), torch.randn(2, 1, 16, 24)
    assert find_target_layer(model, x) == "norm"
    torch.testing.assert_close(grad_cam(model, x, Y), map_by_hand(model, x, "norm", -1).view(2, 4, 6))
