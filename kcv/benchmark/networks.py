"""The networks that are compared: the usual PyTorch implementation, and the same network in Keras."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kcv.config import ModelConfig
from kcv.models import registry
from kcv.models.network import TorchNetwork

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's images in 0-1; any fixed numbers would cost the same."""


class Images(nn.Module):
    """Preprocessing from kcv's image format in front of a PyTorch network.

    Args:
        network: takes normalised images, [n, 3, h, w].
        memory_format: memory format of its input.
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
        """Maps RGB 0-255, uint8 [n, h, w, 3], to the network's input, float32 [n, 3, h, w]."""
        return (images.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std


def in_torch(name: str, model: keras.Model, classes: int) -> nn.Module:
    """Returns the PyTorch counterpart of a Keras model; torchvision's, if it has one."""
    return _beside(name).build(model, classes)


def _beside(name: str) -> TorchNetwork:
    network = registry.get(name).torch
    if network is None:
        raise ValueError(f"{name} has nothing in PyTorch to be compared with")
    return network


def in_keras(name: str, image_size: int, classes: int, pixels: NDArray[np.uint8]) -> keras.Model:
    """Returns kcv's model, under Keras' current dtype policy and device, with random weights.

    Its dropout is that of its counterpart in PyTorch, if it has one.
    """
    network = registry.get(name)
    dropout = network.torch.dropout if network.torch else network.dropout
    config = ModelConfig.model_validate({"name": name, "weights": "none", "dropout": dropout})
    return registry.build(config, image_size, classes, pixels)


def sizes(name: str) -> tuple[int, int]:
    """Returns the default image size and batch size for a model."""
    return (64, 32) if registry.get(name).imagenet else (32, 128)


NAMES: Sequence[str] = tuple(network.name for network in registry.networks() if network.torch)
"""The networks that can be measured."""
USUAL: Sequence[str] = tuple(network.name for network in registry.networks() if network.torch and network.torch.usual)
"""Those that are measured where no network is named."""
