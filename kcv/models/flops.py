"""Counts the multiplications of a network from its graph."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from kcv.models.head import LOGITS

if TYPE_CHECKING:
    import keras


def multiply_adds(model: keras.Model) -> int:
    """Counts the multiply-adds of convolutions and Dense layers for one image, as papers and torchvision state FLOPs.

    Those of the logits are left out, because they depend on the number of classes. Nothing is computed, so the model
    may have been built on Keras' `meta` device.

    Args:
        model: a flat functional model as `kcv.models.registry.build` returns it.
    """
    from keras import layers

    total = 0
    for layer in model.layers:
        if layer.name == LOGITS or not isinstance(layer, layers.Conv2D | layers.DepthwiseConv2D | layers.Dense):
            continue
        kernel = [int(side) for side in layer.kernel.shape]
        # Each output sums over a window; a depthwise convolution does so in one channel, others in all of their group.
        each = math.prod(kernel[:2] if isinstance(layer, layers.DepthwiseConv2D) else kernel[:-1])
        total += math.prod(int(side) for side in layer.output.shape[1:]) * each
    return total
