"""ResNet50V2 of keras.applications: normalisation before each convolution (He et al., 2016, arXiv:1603.05027).

torchvision has no such network, and timm's halves its images elsewhere: only Keras' weights fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kcv.models.applications import (
    KERAS,
    MIN_SIZE,
    Application,
    Variant,
    changed,
    keras_application,
    same,
    unconverted,
)
from kcv.models.inputs import Normalisation
from kcv.models.network import ImageNetFile, KerasFile, Network
from kcv.models.registry import register

if TYPE_CHECKING:
    import keras

_NAME = "resnet50v2"
_PIXELS = Normalisation((0.5,) * 3, (0.25,) * 3)
"""The weights were trained on pixels from -1 to 1."""


def _named(layer: keras.layers.Layer) -> Sequence[keras.layers.Layer]:
    """Names the pooling of a shortcut after its block: Keras numbers it, over all models of the process."""
    from keras import layers

    if isinstance(layer, layers.MaxPooling2D) and tuple(layer.pool_size) == (1, 1):
        before = layer.input._keras_history.operation.name  # as in conv2_block2_out
        stage, _, block = before.removesuffix("_out").partition("_block")
        return [changed(layer, name=f"{stage}_block{int(block) + 1}_0_pool")]
    return same(layer)


_MAKE = keras_application("ResNet50V2")
_BUILD = Application(_NAME, _MAKE, {KERAS: Variant(_named, _PIXELS)})

register(
    Network(
        name=_NAME,
        build=_BUILD,
        parameters=23_564_800,
        multiply_adds=3_480_207_360,
        features=2048,
        min_image_size=MIN_SIZE,
        best_for="own images, with Keras' weights",
        blocks=r"conv\d+_block\d+(?=_)",
        variants=tuple(_BUILD.variants),
        # Keras publishes only MD5 checksums (keras/src/applications, WEIGHTS_HASHES).
        imagenet=ImageNetFile(
            "resnet50v2_weights_tf_dim_ordering_tf_kernels_notop.h5",
            "md5:fac2f116257151a9d068a22e544a4917",
            image_size=224,
            url="https://storage.googleapis.com/tensorflow/keras-applications/resnet/",
        ),
        keras_file=KerasFile(_MAKE, KERAS, rescales=False, convert=unconverted),
    )
)
