"""The models: Keras functional graphs that take RGB 0-255 pictures and give logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kcv.config import ModelConfig
from kcv.models import cnn

if TYPE_CHECKING:
    import keras

Builder: TypeAlias = Callable[[ModelConfig, int, int, NDArray[np.uint8]], "keras.Model"]

_BUILDERS: dict[str, Builder] = {"custom_cnn": cnn.build}


def build(config: ModelConfig, image_size: int, num_classes: int, pixels: NDArray[np.uint8]) -> keras.Model:
    """Builds a model under Keras' current dtype policy and device.

    Args:
        config: which model, and its options.
        image_size: side of the square pictures it will take, in pixels.
        num_classes: width of the logits.
        pixels: uint8 [n, image_size, image_size, 3], training pictures that a model may fit its input layers to
            (normalisation, whitening); a few thousand are enough.

    Returns:
        An uncompiled functional model of standard Keras layers: float32 [batch, image_size, image_size, 3] holding RGB
        0-255 in, float32 logits [batch, num_classes] out.
    """
    return _BUILDERS[config.name](config, image_size, num_classes, pixels)
