"""Weights that a model starts from: none, ImageNet's, or those in a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from kcv.common.files import model_file
from kcv.config import ModelConfig
from kcv.errors import WeightsError
from kcv.models.weights import imagenet

if TYPE_CHECKING:
    from kcv.models.weights.pretrained import Pretrained

SUFFIXES = {
    "custom_cnn": (".keras",),
    "resnet50": (".keras", ".h5", ".pth", ".pt", ".safetensors"),
    "efficientnet_b0": (".keras", ".h5", ".pth", ".pt", ".safetensors"),
    "efficientnet_lite0": (".keras", ".pth", ".pt", ".safetensors"),
}
"""How the names of a model's weight files may end."""


def load(config: ModelConfig) -> Pretrained | None:
    """Reads the weights that a configuration names.

    Args:
        config: `weights` is `none`, `imagenet`, `auto` (`imagenet` where the model has such weights), or a file.

    Returns:
        The weights, or None for random ones.

    Raises:
        WeightsError: they cannot be had, or are not for this model.
        ArtifactError: they are in a model file that cannot be opened.
    """
    asked = config.weights
    if asked == "auto":
        asked = "imagenet" if config.name in imagenet.FILES else "none"
    if asked == "none":
        return None
    if asked == "imagenet":
        return _read(imagenet.fetch(config.name), config.name)
    path = model_file(asked)
    if not os.path.isfile(path):  # unlike Path.is_file, never raises
        raise WeightsError(
            f"model.weights: {asked}: no such file; allowed: auto, imagenet, none, or a file of weights."
        )
    return _read(path, config.name)


def _read(path: Path, name: str) -> Pretrained:
    allowed = SUFFIXES[name]
    if path.suffix not in allowed:
        raise WeightsError(f"{path}: weights of {name} are read from files that end in {', '.join(allowed)}.")
    if path.suffix in (".keras", ".h5"):
        from kcv.models.weights import keras_files

        return keras_files.read(path, name)
    from kcv.models.weights import torch_files

    return torch_files.read(path, name)
