"""The networks that are compared: in PyTorch, as one would write or take them, and the same in Keras."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import keras
import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from numpy.typing import NDArray
from torch import Tensor, nn

from kcv.config import ModelConfig
from kcv.models import registry

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's images in 0-1: any fixed numbers would cost the same."""


class Images(nn.Module):
    """The image contract in front of a PyTorch network.

    Args:
        network: takes normalised images, [n, 3, h, w].
        memory_format: that it is given them in.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, memory_format: torch.memory_format) -> None:
        super().__init__()
        self.network = network
        self._memory_format = memory_format
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None])
        self.register_buffer("std", torch.tensor(STD)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        """Maps RGB 0-255, uint8 [n, h, w, 3], to logits [n, classes]."""
        logits: Tensor = self.network(self.normalise(images).contiguous(memory_format=self._memory_format))
        return logits

    def normalise(self, images: Tensor) -> Tensor:
        """Maps RGB 0-255, uint8 [n, h, w, 3], to what the network takes, float32 [n, 3, h, w]."""
        return (images.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std


class _Block(nn.Module):
    """Two normalised 3x3 convolutions, the second with a shortcut."""

    def __init__(self, channels: int, width: int, *, pooled: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.pool = nn.MaxPool2d(2) if pooled else nn.Identity()
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        for norm in (self.norm1, self.norm2):  # as in the Keras model: no scale is learned
            norm.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.norm1(self.pool(self.conv1(x))))
        return F.gelu(self.norm2(self.conv2(x)) + x)


def custom_cnn(model: keras.Model, classes: int) -> nn.Module:
    """Writes kcv's custom CNN in PyTorch, with the same layers as the Keras model."""
    whiten = model.get_layer("block1_whiten")
    stem = nn.Conv2d(3, whiten.filters, whiten.kernel_size, whiten.strides, bias=False)
    stem.requires_grad_(False)
    numbers = range(2, 2 + sum(layer.name.endswith("_conv1") for layer in model.layers))
    names = {layer.name for layer in model.layers}
    widths = [whiten.filters, *(model.get_layer(f"block{number}_conv1").filters for number in numbers)]
    blocks = [
        _Block(before, width, pooled=f"block{number}_pool" in names)
        for number, (before, width) in zip(numbers, pairwise(widths), strict=True)
    ]
    return nn.Sequential(
        stem, nn.GELU(), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes)
    )


def in_torch(name: str, model: keras.Model, classes: int) -> nn.Module:
    """Returns the PyTorch network beside a Keras model; torchvision's where it has one."""
    if name == "custom_cnn":
        return custom_cnn(model, classes)
    network: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=classes)
    return network


_DROPOUT = {"custom_cnn": 0.0, "resnet50": 0.0, "efficientnet_b0": 0.2}
"""As the heads of the networks beside them have it."""


def in_keras(name: str, image_size: int, classes: int, pixels: NDArray[np.uint8]) -> keras.Model:
    """Returns kcv's model, under Keras' current dtype policy and device, with random weights."""
    config = ModelConfig.model_validate({"name": name, "weights": "none", "dropout": _DROPOUT[name]})
    return registry.build(config, image_size, classes, pixels)


def sizes(name: str) -> tuple[int, int]:
    """Returns the image size and batch size that a model is measured at where none are given."""
    return (32, 128) if name == "custom_cnn" else (64, 32)


NAMES: Sequence[str] = tuple(_DROPOUT)
