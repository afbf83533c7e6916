"""Models whose answers are known by hand."""

import torch
from torch import Tensor, nn


class SumOfPixels(nn.Module):
    """Logits (sum of the pixels, 0): p(class 0) is the sigmoid of the sum, and every pixel counts its value."""

    def forward(self, x: Tensor) -> Tensor:
        total = x.flatten(1).sum(dim=1)
        return torch.stack([total, torch.zeros_like(total)], dim=1)


class Linear(nn.Module):
    """Logits W x + b."""

    def __init__(self, pixels: int, classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(pixels, classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer(x.flatten(1))
        assert isinstance(out, Tensor)
        return out


class SmallCNN(nn.Module):
    """Convolution, norm, in-place ReLU, dropout, pooling and a head: what gets a mode, a buffer or a random number."""

    def __init__(self, channels: int = 1, classes: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(4, classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.head(self.pool(self.drop(self.act(self.norm(self.conv(x))))).flatten(1))
        assert isinstance(out, Tensor)
        return out
