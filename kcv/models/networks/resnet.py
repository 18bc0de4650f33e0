"""ResNet-50 (He et al., 2015, arXiv:1512.03385), in the variants of keras.applications and torchvision."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

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
)
from kcv.models.head import LOGITS
from kcv.models.inputs import IMAGENET, Normalisation
from kcv.models.network import Arrays, ImageNetFile, KerasFile, Network, TorchFile, TorchLayer, TorchNetwork
from kcv.models.registry import register

if TYPE_CHECKING:
    import keras
    from torch import nn

_NAME = "resnet50"
_STAGES = (3, 4, 6, 3)
_CAFFE = Normalisation((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255**2,) * 3)
"""The normalisation of Keras' weights: only a mean is subtracted from 0-255. Their channels are BGR; see `_convert`."""


def _of_torchvision(layer: keras.layers.Layer) -> Sequence[keras.layers.Layer]:
    """Turns Keras' ResNet-50 into torchvision's ("v1.5"): blocks halve in their 3x3 convolution, without biases."""
    from keras import layers

    if isinstance(layer, layers.BatchNormalization):
        return [changed(layer, epsilon=TORCH_EPSILON)]
    if not isinstance(layer, layers.Conv2D):
        return same(layer)
    stage, block, place = [*layer.name.split("_"), "", ""][:3]
    if stage in ("conv3", "conv4", "conv5") and block == "block1" and place in ("1", "2"):
        if place == "1":
            return [changed(layer, strides=1, use_bias=False)]
        # Torch pads both sides equally; Keras' "same" would pad only right and bottom.
        pad = layers.ZeroPadding2D(1, data_format="channels_first", name=f"{stage}_{block}_2_pad")
        return [pad, changed(layer, strides=2, padding="valid", use_bias=False)]
    return [changed(layer, use_bias=False)]


def _convert(weights: dict[str, Arrays], layers: Sequence[keras.layers.Layer]) -> None:
    """Swaps R and B in the first kernel, because the preprocessing of keras.applications swaps them in the images."""
    import numpy as np

    if "conv1_conv" in weights:
        kernel, *rest = weights["conv1_conv"]
        weights["conv1_conv"] = [np.ascontiguousarray(kernel[:, :, ::-1]), *rest]


def _torch_layers() -> Iterator[TorchLayer]:
    yield "conv1_conv", "conv1", "conv"
    yield "conv1_bn", "bn1", "norm"
    for stage, blocks in enumerate(_STAGES, start=1):
        for block in range(blocks):
            ours, theirs = f"conv{stage + 1}_block{block + 1}", f"layer{stage}.{block}"
            if block == 0:
                yield f"{ours}_0_conv", f"{theirs}.downsample.0", "conv"
                yield f"{ours}_0_bn", f"{theirs}.downsample.1", "norm"
            for place in (1, 2, 3):
                yield f"{ours}_{place}_conv", f"{theirs}.conv{place}", "conv"
                yield f"{ours}_{place}_bn", f"{theirs}.bn{place}", "norm"
    yield LOGITS, "fc", "dense"


def _in_torch(model: keras.Model, classes: int) -> nn.Module:
    import torchvision

    network: nn.Module = torchvision.models.resnet50(weights=None, num_classes=classes)
    return network


_MAKE = keras_application("ResNet50")
_BUILD = Application(_NAME, _MAKE, {TORCHVISION: Variant(_of_torchvision, IMAGENET), KERAS: Variant(same, _CAFFE)})

register(
    Network(
        name=_NAME,
        build=_BUILD,
        parameters=23_561_152,
        features=2048,
        min_image_size=MIN_SIZE,
        best_for="own images, on a GPU",
        blocks=r"conv\d+_block\d+(?=_)",
        variants=tuple(_BUILD.variants),
        # Keras publishes only MD5 checksums (keras/src/applications, WEIGHTS_HASHES).
        imagenet=ImageNetFile(
            "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
            "md5:4d473c1dd8becc155b73f8504c6f6626",
            image_size=224,
            url="https://storage.googleapis.com/tensorflow/keras-applications/resnet/",
        ),
        keras_file=KerasFile(_MAKE, KERAS, rescales=False, convert=_convert),
        torch_file=TorchFile("torchvision's resnet50", TORCHVISION, _torch_layers),
        torch=TorchNetwork(_in_torch),
    )
)
