"""Loads the initial weights of a model: random, ImageNet's, or from a file."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kcv.config import ModelConfig
from kcv.errors import WeightsError
from kcv.inference.locating import model_file, source_of
from kcv.models import imagenet
from kcv.models.network import Network
from kcv.models.registry import get

if TYPE_CHECKING:
    from kcv.models.pretrained import Pretrained


def load(config: ModelConfig) -> Pretrained | None:
    """Reads the weights that a configuration names.

    Args:
        config: its `weights` is `none`, `imagenet`, `auto` (`imagenet` if the model has such weights), or a file.

    Returns:
        The weights, or None for random ones.

    Raises:
        WeightsError: the weights cannot be obtained, or do not fit this model.
        ArtifactError: the weights are in a model file that cannot be opened.
    """
    asked, network = config.weights, get(config.name)
    if asked == "auto":
        asked = "imagenet" if network.imagenet else "none"
    if asked == "none":
        return None
    if asked == "imagenet":
        return _read(imagenet.fetch(network), network)
    path = model_file(asked)
    if not os.path.isfile(path):  # unlike Path.is_file, it never raises
        raise WeightsError(
            f"model.weights: {asked}: no such file; allowed: auto, imagenet, none, or a file of weights."
        )
    return replace(_read(path, network), source=source_of(path))


def _read(path: Path, network: Network) -> Pretrained:
    if path.suffix not in network.suffixes:
        raise WeightsError(
            f"{path}: weights of {network.name} are read from files that end in {', '.join(network.suffixes)}."
        )
    if path.suffix in (".keras", ".h5"):
        from kcv.models.weights import keras_files

        return keras_files.read(path, network)
    from kcv.models.weights import torch_files

    return torch_files.read(path, network)
