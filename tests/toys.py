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


class ToyTransformer(nn.Module):
    """Patches of 2 x 2, a class token, attention with a residual in each block, and a head that reads one token.

    Args:
        kind: How attention is computed: "module" (nn.MultiheadAttention), "function" (scaled_dot_product_attention) or
            "softmax" (written out).
        depth: Blocks.
    """

    def __init__(self, kind: str = "function", depth: int = 2) -> None:
        super().__init__()
        self.kind, self.heads = kind, 2
        self.patches = nn.Conv2d(1, 8, 2, stride=2)
        self.class_token = nn.Parameter(torch.randn(1, 1, 8))
        self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in range(depth))
        self.attention = nn.ModuleList(nn.MultiheadAttention(8, 2, batch_first=True) for _ in range(depth))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(x), -1, -1), patches], dim=1)
        for norm, attention in zip(self.norms, self.attention, strict=True):
            tokens = tokens + self.mixed(norm(tokens), attention)
        out = self.head(tokens[:, 0])
        assert isinstance(out, Tensor)
        return out

    def mixed(self, tokens: Tensor, attention: nn.Module) -> Tensor:
        assert isinstance(attention, nn.MultiheadAttention)
        if self.kind == "module":
            out, _ = attention(tokens, tokens, tokens, need_weights=False)
            assert isinstance(out, Tensor)
            return out
        q, k, v = self.heads_of(tokens, attention)
        if self.kind == "function":
            mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        else:
            mixed = (q @ k.transpose(-2, -1) / 2).softmax(dim=-1) @ v  # 2 is the root of four channels in a head
        out = attention.out_proj(mixed.transpose(1, 2).flatten(2))
        assert isinstance(out, Tensor)
        return out

    def heads_of(self, tokens: Tensor, attention: nn.MultiheadAttention) -> tuple[Tensor, ...]:
        """Return queries, keys and values, (N, heads, T, 4)."""
        mixed = nn.functional.linear(tokens, attention.in_proj_weight, attention.in_proj_bias)
        return tuple(part.reshape(*part.shape[:2], 2, 4).transpose(1, 2) for part in mixed.chunk(3, dim=2))
