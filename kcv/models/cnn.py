"""The custom CNN: five blocks made to learn small images in few epochs.

Block 1 is a patch-whitening convolution with fixed filters; blocks 2 to 5 are two 3x3 convolutions each, both
normalised, the second with a shortcut; blocks 2 to 4 halve the image after the first. The ideas of fitting the first
layer to the data, of starting the convolutions at the identity and of leaving out BatchNormalization's scale are
those of Keller Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (arXiv:2404.00498).
"""

from __future__ import annotations

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from kcv.models.head import classify
from kcv.models.inputs import Normalisation, network_input
from kcv.models.whitening import whitening_filters

WIDTHS = (64, 256, 256, 256)
"""Output channels of the blocks after the whitening block, at width 1."""

_POOLED = 3
"""How many of those blocks halve the image: 32 px end at 3 x 3, and 16 px, the smallest input, at 1 x 1."""

_CHANNELS = "channels_first"
"""The inner layout, whatever Keras' default is: on torch it is the faster one for Keras' layers."""


def build(
    image_size: int,
    num_classes: int,
    pixels: NDArray[np.uint8],
    *,
    width: float,
    dropout: float,
    normalisation: Normalisation | None = None,
) -> keras.Model:
    """Builds the custom CNN; see `kcv.models.registry.build` for the contract.

    Args:
        image_size: side of the images, pixels.
        num_classes: width of the logits.
        pixels: training images that the first layer is fitted to.
        width: channels over `WIDTHS`.
        dropout: part of the features dropped before the logits.
        normalisation: of the pixels; None: theirs.
    """
    inputs, x = network_input(image_size, normalisation or Normalisation.of(pixels))

    # Up to 64 px every pixel counts; larger images are cut into patches of up to 4 px, as a stem with a stride does.
    stride = 1 if image_size <= 64 else 2 if image_size <= 128 else 4
    kernel = max(2, stride)
    filters = whitening_filters(pixels, kernel)
    whiten = layers.Conv2D(
        filters.shape[-1],
        kernel,
        strides=stride,
        use_bias=False,
        trainable=False,
        data_format=_CHANNELS,
        name="block1_whiten",
    )
    x = layers.Activation("gelu", name="block1_gelu")(whiten(x))
    whiten.set_weights([filters])

    for number, channels in enumerate(WIDTHS, start=2):
        # Multiples of 16 fill the vector and matrix units.
        filled = max(16, round(channels * width / 16) * 16)
        x = _block(x, filled, f"block{number}", pooled=number - 2 < _POOLED)
    return keras.Model(inputs, classify(x, num_classes, dropout), name="custom_cnn")


def _block(x: keras.KerasTensor, width: int, name: str, *, pooled: bool) -> keras.KerasTensor:
    x = _convolution(x, width, f"{name}_conv1")
    if pooled:
        x = layers.MaxPooling2D(2, data_format=_CHANNELS, name=f"{name}_pool")(x)
    x = _normalise(x, f"{name}_norm1")
    x = shortcut = layers.Activation("gelu", name=f"{name}_gelu1")(x)
    x = _normalise(_convolution(x, width, f"{name}_conv2"), f"{name}_norm2")
    x = layers.Add(name=f"{name}_add")([x, shortcut])
    return layers.Activation("gelu", name=f"{name}_gelu2")(x)


def _convolution(x: keras.KerasTensor, width: int, name: str) -> keras.KerasTensor:
    layer = layers.Conv2D(width, 3, padding="same", use_bias=False, data_format=_CHANNELS, name=name)
    outputs = layer(x)
    kernel = layer.get_weights()[0]
    shared = min(kernel.shape[2:])
    # The first filters start as the identity, so that the image reaches every block from the first step on.
    kernel[:, :, :shared, :shared] = 0.0
    kernel[1, 1, range(shared), range(shared)] = 1.0
    layer.set_weights([kernel])
    return outputs


def _normalise(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    # Momentum 0.9 instead of Keras' 0.99: the statistics must follow a training of a few hundred steps. No scale: the
    # next convolution (or the logits) can take it over.
    return layers.BatchNormalization(axis=1, momentum=0.9, scale=False, name=name)(x)
