"""EfficientNet-B0 (Tan and Le, 2019, arXiv:1905.11946), in the variants of keras.applications and torchvision."""

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
from kcv.models.network import Arrays, ImageNetFile, KerasFile, Network, TorchFile, TorchLayer, torchvision_network
from kcv.models.registry import register

if TYPE_CHECKING:
    import keras

_NAME = "efficientnet_b0"
STAGES = (1, 2, 2, 3, 3, 4, 1)
"""Blocks per stage."""
_IMAGENET_DEVIATION = (0.229, 0.224, 0.225)

BLOCKS = r"block\d+[a-z](?=_)"
"""Matches the common prefix of the layer names of a block; all EfficientNets use it."""


def without_preprocessing(layer: keras.layers.Layer) -> Sequence[keras.layers.Layer]:
    """Removes EfficientNet's preprocessing layers, because the model's own input normalises the pixels."""
    from keras import layers

    return [] if isinstance(layer, layers.Rescaling | layers.Normalization) else same(layer)


def _of_torchvision(layer: keras.layers.Layer) -> Sequence[keras.layers.Layer]:
    from keras import layers

    if isinstance(layer, layers.BatchNormalization):
        return [changed(layer, epsilon=TORCH_EPSILON)]
    if isinstance(layer, layers.ZeroPadding2D):
        # Keras' padding depends on whether the size is odd; torch's depends only on the kernel.
        return [changed(layer, padding=max(max(pair) for pair in layer.padding))]
    return without_preprocessing(layer)


def _convert(weights: dict[str, Arrays], layers: Sequence[keras.layers.Layer]) -> Normalisation | None:
    """Returns the statistics with which the network in a file normalises its pixels."""
    import keras
    import numpy as np

    normalisation = None
    for layer in layers:
        if isinstance(layer, keras.layers.Normalization):
            variance = np.ravel(keras.ops.convert_to_numpy(layer.variance))
            if np.allclose(variance, _IMAGENET_DEVIATION, atol=1e-3):
                # The ImageNet weights store the standard deviation as the variance; a Rescaling layer compensates.
                variance = variance**2
            normalisation = Normalisation.from_tensors(layer.mean, variance)
    return normalisation


def blocks(stages: Sequence[int] = STAGES) -> Iterator[tuple[int, int, str]]:
    """Yields the stage (from 1), the block in it (from 0), and the block's name in Keras.

    Args:
        stages: blocks per stage.
    """
    for stage, count in enumerate(stages, start=1):
        for block in range(count):
            yield stage, block, f"block{stage}{chr(ord('a') + block)}"


def _torch_layers() -> Iterator[TorchLayer]:
    yield "stem_conv", "features.0.0", "conv"
    yield "stem_bn", "features.0.1", "norm"
    for stage, block, ours in blocks():
        theirs = f"features.{stage}.{block}.block"
        part = 0
        if stage > 1:
            yield f"{ours}_expand_conv", f"{theirs}.{part}.0", "conv"
            yield f"{ours}_expand_bn", f"{theirs}.{part}.1", "norm"
            part += 1
        yield f"{ours}_dwconv", f"{theirs}.{part}.0", "depthwise"
        yield f"{ours}_bn", f"{theirs}.{part}.1", "norm"
        yield f"{ours}_se_reduce", f"{theirs}.{part + 1}.fc1", "conv"
        yield f"{ours}_se_expand", f"{theirs}.{part + 1}.fc2", "conv"
        yield f"{ours}_project_conv", f"{theirs}.{part + 2}.0", "conv"
        yield f"{ours}_project_bn", f"{theirs}.{part + 2}.1", "norm"
    yield "top_conv", "features.8.0", "conv"
    yield "top_bn", "features.8.1", "norm"
    yield LOGITS, "classifier.1", "dense"


MAKE = keras_application("EfficientNetB0")
_BUILD = Application(
    _NAME,
    MAKE,
    {TORCHVISION: Variant(_of_torchvision, IMAGENET), KERAS: Variant(without_preprocessing, IMAGENET)},
)

TORCH = torchvision_network(_NAME, dropout=0.2, usual=True)
"""The same network in PyTorch."""

register(
    Network(
        name=_NAME,
        build=_BUILD,
        parameters=4_049_564,
        multiply_adds=384_534_752,
        features=1280,
        min_image_size=MIN_SIZE,
        best_for="own images, small and accurate",
        depthwise=True,
        automatic=True,
        blocks=BLOCKS,
        variants=tuple(_BUILD.variants),
        # Keras publishes only MD5 checksums (keras/src/applications, WEIGHTS_HASHES).
        imagenet=ImageNetFile(
            "efficientnetb0_notop.h5",
            "md5:50bc09e76180e00e4465e1a485ddc09d",
            image_size=224,
            url="https://storage.googleapis.com/keras-applications/",
            top1=0.771,
        ),
        keras_file=KerasFile(MAKE, KERAS, rescales=True, convert=_convert),
        torch_file=TorchFile("torchvision's efficientnet_b0", TORCHVISION, _torch_layers),
        torch=TORCH,
    )
)
