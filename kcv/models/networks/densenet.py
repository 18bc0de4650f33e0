"""DenseNet-121 (Huang et al., 2016, arXiv:1608.06993), in the variants of keras.applications and torchvision.

The layers are named as in keras.applications, whose builder takes only channels last. The variants differ in the
epsilon of their normalisation alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from kcv.models.applications import (
    KERAS,
    MIN_SIZE,
    TORCH_EPSILON,
    TORCHVISION,
    Application,
    Variant,
    changed,
    keras_application,
    same,
    unconverted,
)
from kcv.models.head import LOGITS
from kcv.models.inputs import IMAGENET
from kcv.models.network import ImageNetFile, KerasFile, Network, TorchFile, TorchLayer, torchvision_network
from kcv.models.registry import register

if TYPE_CHECKING:
    import keras

_NAME = "densenet121"
_STAGES = (6, 12, 24, 16)
_CHANNELS = "channels_first"
_KERAS_EPSILON = 1.001e-5
_BOTTLENECK = 4
"""Channels between the two convolutions of a block, for each that it adds."""
_OLD_NAME = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
"""Names in torchvision's published files, from when names of modules could contain dots."""


def densenet(stages: Sequence[int], width: int = 64, growth: int = 32) -> Callable[..., keras.Model]:
    """Returns a builder of a DenseNet.

    Args:
        stages: blocks per stage.
        width: channels of the stem.
        growth: channels that each block adds.
    """

    def make(*, input_shape: tuple[int, int, int], **unused: Any) -> keras.Model:
        import keras
        from keras import layers

        inputs = keras.Input(input_shape)
        x = layers.ZeroPadding2D(3, data_format=_CHANNELS, name="conv1_pad")(inputs)
        x = _convolved(x, width, 7, "conv1_conv", strides=2)
        x = _activated(x, "conv1_bn", "conv1_relu")
        x = layers.ZeroPadding2D(1, data_format=_CHANNELS, name="pool1_pad")(x)
        x = layers.MaxPooling2D(3, strides=2, data_format=_CHANNELS, name="pool1")(x)
        for stage, count in enumerate(stages, start=2):
            if stage > 2:
                name = f"pool{stage - 1}"
                x = _activated(x, f"{name}_bn", f"{name}_relu")
                x = _convolved(x, x.shape[1] // 2, 1, f"{name}_conv")
                x = layers.AveragePooling2D(2, data_format=_CHANNELS, name=f"{name}_pool")(x)
            for block in range(1, count + 1):
                x = _dense_block(x, growth, f"conv{stage}_block{block}")
        return keras.Model(inputs, _activated(x, "bn", "relu"))

    return make


def _dense_block(x: keras.KerasTensor, growth: int, name: str) -> keras.KerasTensor:
    from keras import layers

    new = _activated(x, f"{name}_0_bn", f"{name}_0_relu")
    new = _convolved(new, _BOTTLENECK * growth, 1, f"{name}_1_conv")
    new = _activated(new, f"{name}_1_bn", f"{name}_1_relu")
    new = _convolved(new, growth, 3, f"{name}_2_conv", padding="same")
    return layers.Concatenate(axis=1, name=f"{name}_concat")([x, new])


def _convolved(x: keras.KerasTensor, width: int, kernel: int, name: str, **options: Any) -> keras.KerasTensor:
    from keras import initializers, layers

    start = initializers.VarianceScaling(2.0, "fan_in", "untruncated_normal")
    convolution = layers.Conv2D(
        width, kernel, use_bias=False, kernel_initializer=start, data_format=_CHANNELS, name=name, **options
    )
    return convolution(x)


def _activated(x: keras.KerasTensor, norm: str, activation: str) -> keras.KerasTensor:
    from keras import layers

    x = layers.BatchNormalization(axis=1, momentum=0.9, epsilon=_KERAS_EPSILON, name=norm)(x)
    return layers.Activation("relu", name=activation)(x)


def _of_torchvision(layer: keras.layers.Layer) -> Sequence[keras.layers.Layer]:
    from keras import layers

    if isinstance(layer, layers.BatchNormalization):
        return [changed(layer, epsilon=TORCH_EPSILON)]
    return same(layer)


def _torch_layers() -> Iterator[TorchLayer]:
    yield "conv1_conv", "features.conv0", "conv"
    yield "conv1_bn", "features.norm0", "norm"
    for stage, count in enumerate(_STAGES, start=1):
        for block in range(1, count + 1):
            ours, theirs = f"conv{stage + 1}_block{block}", f"features.denseblock{stage}.denselayer{block}"
            for place in (1, 2):
                yield f"{ours}_{place - 1}_bn", f"{theirs}.norm{place}", "norm"
                yield f"{ours}_{place}_conv", f"{theirs}.conv{place}", "conv"
        if stage < len(_STAGES):
            yield f"pool{stage + 1}_bn", f"features.transition{stage}.norm", "norm"
            yield f"pool{stage + 1}_conv", f"features.transition{stage}.conv", "conv"
    yield "bn", "features.norm5", "norm"
    yield LOGITS, "classifier", "dense"


def _renamed(name: str) -> str:
    return _OLD_NAME.sub(r"\1\2", name)


_BUILD = Application(
    _NAME, densenet(_STAGES), {TORCHVISION: Variant(_of_torchvision, IMAGENET), KERAS: Variant(same, IMAGENET)}
)

register(
    Network(
        name=_NAME,
        build=_BUILD,
        parameters=7_037_504,
        multiply_adds=2_833_137_664,
        features=1024,
        min_image_size=MIN_SIZE,
        best_for="own images, much used in medicine",
        blocks=r"conv\d+_block\d+(?=_)",
        variants=tuple(_BUILD.variants),
        # Keras publishes only MD5 checksums (keras/src/applications/densenet.py).
        imagenet=ImageNetFile(
            "densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5",
            "md5:30ee3e1110167f948a6b9946edeeb738",
            image_size=224,
            url="https://storage.googleapis.com/tensorflow/keras-applications/densenet/",
        ),
        keras_file=KerasFile(keras_application("DenseNet121"), KERAS, rescales=False, convert=unconverted),
        torch_file=TorchFile(f"torchvision's {_NAME}", TORCHVISION, _torch_layers, _renamed),
        torch=torchvision_network(_NAME),
    )
)
