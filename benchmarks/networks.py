"""What the benchmarks measure with: a ResNet-18 written plainly, and images to train it on briefly."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut: He et al., "Deep Residual Learning", CVPR 2016, figure 2."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out = self.relu(out + self.shortcut(x))
        assert isinstance(out, Tensor)
        return out


class ResNet18(nn.Sequential):
    """ResNet-18: ``layer4`` is the usual layer for Grad-CAM, ``layer3`` for images of 32 x 32.

    Args:
        classes: Number of logits.
        channels: Channels of the images.
        small: A 3 x 3 stem without pooling, as is usual for 32 x 32 images, instead of the 7 x 7 stem for 224 x 224.
        width: Channels of the stem; fewer only to see whether a benchmark runs.
    """

    def __init__(self, classes: int = 10, channels: int = 3, *, small: bool = True, width: int = 64) -> None:
        super().__init__()
        size, stride = (3, 1) if small else (7, 2)
        self.add_module("conv1", nn.Conv2d(channels, width, size, stride, padding=size // 2, bias=False))
        self.add_module("bn1", nn.BatchNorm2d(width))
        self.add_module("relu", nn.ReLU(inplace=True))
        if not small:
            self.add_module("maxpool", nn.MaxPool2d(3, 2, padding=1))
        inputs = width
        for number in range(1, 5):
            outputs = width << number - 1
            blocks = BasicBlock(inputs, outputs, 1 if number == 1 else 2), BasicBlock(outputs, outputs, 1)
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
            inputs = outputs
        self.add_module("avgpool", nn.AdaptiveAvgPool2d(1))
        self.add_module("flatten", nn.Flatten())
        self.add_module("fc", nn.Linear(inputs, classes))


class Transformer(nn.Module):
    """A small vision transformer: patches of 4 x 4, a class token, six layers with four heads (Dosovitskiy, ICLR 2021).

    Args:
        side: Of the images.
        width: Channels of a token.
    """

    def __init__(self, side: int = 32, width: int = 192) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, (side // 4) ** 2 + 1, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(12))
        self.attention = nn.ModuleList(nn.MultiheadAttention(width, 4, batch_first=True) for _ in range(6))
        self.mixers = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)) for _ in range(6)
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        patches = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(x), -1, -1), patches], dim=1) + self.positions
        for number, (attention, mixer) in enumerate(zip(self.attention, self.mixers, strict=True)):
            normed = self.norms[2 * number](tokens)
            tokens = tokens + attention(normed, normed, normed, need_weights=False)[0]
            tokens = tokens + mixer(self.norms[2 * number + 1](tokens))
        out = self.head(tokens[:, 0])
        assert isinstance(out, Tensor)
        return out


def images_of(data: Path | str, size: int = 32) -> tuple[Tensor, Tensor]:
    """Return images (N, C, size, size), standardised, and labels (N,), in a fixed random order.

    Args:
        data: An ``.npz`` file with ``images`` (N, H, W) or (N, H, W, C), uint8, and ``labels`` (N,); of a folder, the
            first such file by name.
        size: Side to which the images are resized.
    """
    path = Path(data)
    path = path if path.is_file() else sorted(path.glob("*.npz"))[0]
    with np.load(path) as arrays:
        raw, labels = arrays["images"], arrays["labels"]
    order = np.random.default_rng(0).permutation(len(raw))
    images = torch.from_numpy(raw[order]).float().div(255)
    images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
    images = (images - images.mean(dim=(0, 2, 3), keepdim=True)) / images.std(dim=(0, 2, 3), keepdim=True)
    if images.shape[-1] != size:
        images = F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
    return images, torch.from_numpy(labels[order].astype(np.int64))


def random_images(number: int, size: int, channels: int = 3) -> tuple[Tensor, Tensor]:
    """Return noise and labels, for where only the time matters."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(number, channels, size, size, generator=generator), torch.arange(number) % 10


def resnet18(size: int, channels: int = 3, classes: int = 10, *, width: int = 64) -> ResNet18:
    """Return an untrained network for images of this side, the same at each call, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ResNet18(classes, channels, small=size <= 64, width=width).eval()


def trained_resnet18(
    images: Tensor, labels: Tensor, *, epochs: int = 2, batch_size: int = 64, width: int = 64
) -> ResNet18:
    """Return :func:`resnet18` after some epochs of SGD on the images.

    Hold back the images that are explained: curves of images seen in training are too steep.
    """
    network = resnet18(images.shape[-1], images.shape[1], int(labels.max()) + 1, width=width)
    steps = epochs * -(-len(images) // batch_size)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
    generator = torch.Generator().manual_seed(0)
    network.train()
    for _ in range(epochs):
        for batch in torch.split(torch.randperm(len(images), generator=generator), batch_size):
            loss = F.cross_entropy(network(images[batch]), labels[batch])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    return network.eval()


@torch.no_grad()
def accuracy(network: nn.Module, images: Tensor, labels: Tensor, batch_size: int = 64) -> float:
    """Return the fraction of right predictions."""
    predicted = torch.cat([network(part).argmax(dim=1) for part in torch.split(images, batch_size)])
    return float((predicted == labels).float().mean())
