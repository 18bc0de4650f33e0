"""Networks with ImageNet weights: ResNet-50, EfficientNet-B0 and EfficientNet-Lite0, on kcv's input and head.

The graphs are those of keras.applications, on kcv's image contract: whatever a set of weights wants of its pixels
(a mean of 0-255, ImageNet's statistics) is a layer of the model. Weights from torchvision want a slightly other graph;
both are variants here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
from keras import layers

from kcv.models.graft import Change, changed, graft, same
from kcv.models.head import classify
from kcv.models.inputs import Normalisation, network_input

KERAS, TORCHVISION = "keras", "torchvision"
"""Variants of ResNet-50 and EfficientNet-B0: who trained the weights that fit."""

IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229**2, 0.224**2, 0.225**2))
"""What torchvision's weights and Keras' EfficientNet were trained with."""
CAFFE = Normalisation((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255**2,) * 3)
"""Of Keras' ResNet-50: a mean is taken off 0-255. Its channels are BGR, see `kcv.models.weights.keras_files`."""
LITE = Normalisation((127 / 255,) * 3, ((128 / 255) ** 2,) * 3)
"""Of EfficientNet-Lite (tensorflow/tpu, models/official/efficientnet/lite)."""

_TORCH_EPSILON = 1e-5


def default_variant(name: str) -> str:
    """Returns the variant that random weights start in: torchvision's where there is one, the younger and better."""
    return TORCHVISION if (name, TORCHVISION) in _NETWORKS else KERAS


def variants(name: str) -> tuple[str | None, ...]:
    """Returns the variants that an architecture has; None alone where there is only one way to build it."""
    return tuple(variant for network, variant in _NETWORKS if network == name) or (None,)


def build(
    name: str, image_size: int, num_classes: int, *, dropout: float, variant: str, normalisation: Normalisation | None
) -> keras.Model:
    """Builds a network with random weights; see `kcv.models.registry.build` for the contract.

    Args:
        name: `resnet50`, `efficientnet_b0` or `efficientnet_lite0`.
        image_size: side of the images, pixels; 32 or more.
        num_classes: width of the logits.
        dropout: part of the features dropped before the logits.
        variant: `keras` or `torchvision`; EfficientNet-Lite0 knows only `keras`.
        normalisation: of the pixels, where it is not the variant's own.
    """
    make, change, usual = _NETWORKS[name, variant]
    inputs, x = network_input(image_size, normalisation or usual)
    with _channels_first():
        network = make(include_top=False, weights=None, input_shape=(3, image_size, image_size))
    return keras.Model(inputs, classify(graft(network, x, change), num_classes, dropout), name=name)


@contextmanager
def _channels_first() -> Iterator[None]:
    """Makes Keras build with channels first, which is the faster layout on torch."""
    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    try:
        yield
    finally:
        keras.config.set_image_data_format(before)


def _resnet_of_torchvision(layer: keras.layers.Layer) -> Sequence[keras.layers.Layer]:
    """Makes Keras' ResNet-50 that of torchvision ("v1.5"): blocks halve in their 3x3 convolution, none has a bias."""
    if isinstance(layer, layers.BatchNormalization):
        return [changed(layer, epsilon=_TORCH_EPSILON)]
    if not isinstance(layer, layers.Conv2D):
        return same(layer)
    stage, block, place = [*layer.name.split("_"), "", ""][:3]
    if stage in ("conv3", "conv4", "conv5") and block == "block1" and place in ("1", "2"):
        if place == "1":
            return [changed(layer, strides=1, use_bias=False)]
        # Torch pads both sides alike; Keras' "same" would pad only right and bottom.
        pad = layers.ZeroPadding2D(1, data_format="channels_first", name=f"{stage}_{block}_2_pad")
        return [pad, changed(layer, strides=2, padding="valid", use_bias=False)]
    return [changed(layer, use_bias=False)]


def _efficientnet(layer: keras.layers.Layer) -> Sequence[keras.layers.Layer]:
    """Leaves out what EfficientNet would do to its pixels: the model's own input does it."""
    return [] if isinstance(layer, layers.Rescaling | layers.Normalization) else same(layer)


def _efficientnet_of_torchvision(layer: keras.layers.Layer) -> Sequence[keras.layers.Layer]:
    if isinstance(layer, layers.BatchNormalization):
        return [changed(layer, epsilon=_TORCH_EPSILON)]
    if isinstance(layer, layers.ZeroPadding2D):
        # Keras' padding depends on whether the size is odd, torch's only on the kernel.
        return [changed(layer, padding=max(max(pair) for pair in layer.padding))]
    return _efficientnet(layer)


def _efficientnet_lite(layer: keras.layers.Layer) -> Sequence[keras.layers.Layer]:
    """Makes EfficientNet-B0 its Lite0: no squeeze and excitation, ReLU6 for swish."""
    if "_se_" in layer.name:
        return []
    if isinstance(layer, layers.Activation):
        return [layers.ReLU(6, name=layer.name)]
    return _efficientnet(layer)


_NETWORKS: dict[tuple[str, str], tuple[Callable[..., Any], Change, Normalisation]] = {
    ("resnet50", KERAS): (keras.applications.ResNet50, same, CAFFE),
    ("resnet50", TORCHVISION): (keras.applications.ResNet50, _resnet_of_torchvision, IMAGENET),
    ("efficientnet_b0", KERAS): (keras.applications.EfficientNetB0, _efficientnet, IMAGENET),
    ("efficientnet_b0", TORCHVISION): (keras.applications.EfficientNetB0, _efficientnet_of_torchvision, IMAGENET),
    ("efficientnet_lite0", KERAS): (keras.applications.EfficientNetB0, _efficientnet_lite, LITE),
}
