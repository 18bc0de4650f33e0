"""The custom CNN as a person would write it in PyTorch: the yardstick for `kcv benchmark train`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Block(nn.Module):
    """Two normalised 3x3 convolutions, the second with a shortcut."""

    def __init__(self, channels: int, width: int, *, pooled: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.pool = nn.MaxPool2d(2) if pooled else nn.Identity()
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        # kcv's normalisation has no scale.
        self.norm1.weight.requires_grad_(False)
        self.norm2.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [n, channels, h, w] to [n, width, h', w']."""
        x = F.gelu(self.norm1(self.pool(self.conv1(x))))
        return F.gelu(self.norm2(self.conv2(x)) + x)


def build(classes, widths, pooled, mean, std, filters=24, kernel=2, stride=1):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.tensor(mean)[:, None, None])
            self.register_buffer("std", torch.tensor(std)[:, None, None])
            self.whiten = nn.Conv2d(3, filters, kernel, stride, bias=False)
            self.whiten.weight.requires_grad_(False)
            ch = [filters, *widths]
            self.blocks = nn.Sequential(*[_Block(a, b, pooled=i < pooled) for i, (a, b) in enumerate(zip(ch, ch[1:]))])
            self.head = nn.Linear(widths[-1], classes)

        def forward(self, x):
            x = x.permute(0, 3, 1, 2).float() / 255
            x = (x - self.mean) / self.std
            x = x.contiguous(memory_format=self.mf)
            x = F.gelu(self.whiten(x))
            return self.head(self.blocks(x).mean((2, 3)))

    return Net()
