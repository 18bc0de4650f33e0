"""EfficientNetV2-B0 to -B3 and -S (Tan and Le, 2021, arXiv:2104.00298); -S in torchvision's variant too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from kcv.models.applications import (
    KERAS,
    MIN_SIZE,
    TORCHVISION,
    Application,
    Variant,
    keras_application,
    padded_as_in_torch,
    unconverted,
)
from kcv.models.head import LOGITS
from kcv.models.inputs import IMAGENET, Normalisation
from kcv.models.network import ImageNetFile, KerasFile, Network, TorchFile, TorchLayer, torchvision_network
from kcv.models.networks.efficientnet import BLOCKS, blocks, without_preprocessing
from kcv.models.registry import register

if TYPE_CHECKING:
    import keras

_URL = "https://storage.googleapis.com/tensorflow/keras-applications/efficientnet_v2/"
_PIXELS = Normalisation((128 / 255,) * 3, ((128 / 255) ** 2,) * 3)
"""Of Keras' weights of -S; those of -B0 to -B3 were trained on pixels normalised with ImageNet's statistics."""
_FUSED = (2, 4, 4)
"""Blocks per stage of -S with one full convolution in place of a pointwise and a depthwise one."""
_SEPARATE = (6, 9, 15)
"""Blocks per further stage."""


def _of_torchvision(layer: keras.layers.Layer) -> Sequence[keras.layers.Layer]:
    return [] if not without_preprocessing(layer) else padded_as_in_torch(layer)


def _torch_layers() -> Iterator[TorchLayer]:
    """Yields the layers of -S."""
    yield "stem_conv", "features.0.0", "conv"
    yield "stem_bn", "features.0.1", "norm"
    for stage, block, ours in blocks((*_FUSED, *_SEPARATE)):
        theirs = f"features.{stage}.{block}.block"
        if stage > 1:
            yield f"{ours}_expand_conv", f"{theirs}.0.0", "conv"
            yield f"{ours}_expand_bn", f"{theirs}.0.1", "norm"
        if stage > len(_FUSED):
            yield f"{ours}_dwconv2", f"{theirs}.1.0", "depthwise"
            yield f"{ours}_bn", f"{theirs}.1.1", "norm"
            yield f"{ours}_se_reduce", f"{theirs}.2.fc1", "conv"
            yield f"{ours}_se_expand", f"{theirs}.2.fc2", "conv"
        last = 3 if stage > len(_FUSED) else 1 if stage > 1 else 0
        yield f"{ours}_project_conv", f"{theirs}.{last}.0", "conv"
        yield f"{ours}_project_bn", f"{theirs}.{last}.1", "norm"
    yield "top_conv", "features.7.0", "conv"
    yield "top_bn", "features.7.1", "norm"
    yield LOGITS, "classifier.1", "dense"


def _register(name: str, source: str, file: tuple[str, str, int], **facts: Any) -> None:
    """Registers a network; `file` is the name of its file of weights, the MD5 checksum, and the image side in pixels.

    Keras publishes only MD5 checksums (keras/src/applications, WEIGHTS_HASHES). `facts` are the other entries of
    `Network`.
    """
    make = keras_application(source)
    in_torch = name.endswith("_s")
    variants = {TORCHVISION: Variant(_of_torchvision, IMAGENET)} if in_torch else {}
    variants[KERAS] = Variant(without_preprocessing, _PIXELS if in_torch else IMAGENET)
    build = Application(name, make, variants)
    file_name, checksum, image_size = file
    register(
        Network(
            name=name,
            build=build,
            min_image_size=MIN_SIZE,
            depthwise=True,
            blocks=BLOCKS,
            variants=tuple(build.variants),
            imagenet=ImageNetFile(file_name, f"md5:{checksum}", image_size, url=_URL),
            keras_file=KerasFile(make, KERAS, rescales=True, convert=unconverted),
            torch_file=TorchFile(f"torchvision's {name}", TORCHVISION, _torch_layers) if in_torch else None,
            torch=torchvision_network(name, dropout=0.2) if in_torch else None,
            **facts,
        )
    )


_register(
    "efficientnet_v2_b0",
    "EfficientNetV2B0",
    parameters=5_919_312,
    multiply_adds=716_806_176,
    features=1280,
    file=("efficientnetv2-b0_notop.h5", "893217f2bb855e2983157299931e43ff", 224),
    best_for="own images, quicker than B0",
)
_register(
    "efficientnet_v2_b1",
    "EfficientNetV2B1",
    parameters=6_931_124,
    multiply_adds=1_195_539_360,
    features=1280,
    file=("efficientnetv2-b1_notop.h5", "0e80663031ca32d657f9caa404b6ec37", 240),
    best_for="own images, between V2-B0 and -B2",
)
_register(
    "efficientnet_v2_b2",
    "EfficientNetV2B2",
    parameters=8_769_374,
    multiply_adds=1_696_134_832,
    features=1408,
    file=("efficientnetv2-b2_notop.h5", "1dfe2e7a5d45b6632553a8961ea609eb", 260),
    best_for="own images, between V2-B1 and -B3",
)
_register(
    "efficientnet_v2_b3",
    "EfficientNetV2B3",
    parameters=12_930_622,
    multiply_adds=3_009_922_816,
    features=1536,
    file=("efficientnetv2-b3_notop.h5", "f6abf7b5849ac99a89b50dd3fd532856", 300),
    best_for="own images, accurate",
)
_register(
    "efficientnet_v2_s",
    "EfficientNetV2S",
    parameters=20_331_360,
    multiply_adds=8_364_337_152,
    features=1280,
    file=("efficientnetv2-s_notop.h5", "af0682fb74e8c54910f2d4393339c070", 384),
    best_for="own images, accurate, on a GPU",
)
