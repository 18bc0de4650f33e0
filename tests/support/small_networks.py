"""The large networks as toys: Keras' and kcv's own builders, with few and narrow blocks under the same layer names.

Graphs, layers and padding are of the same kinds, so what is true of them is true of the large ones but for the number
of blocks; a build takes a tenth of the time. The true sizes are in the complete set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import keras
import pytest
from keras.src.applications.convnext import ConvNeXt
from keras.src.applications.efficientnet import DEFAULT_BLOCKS_ARGS, EfficientNet
from keras.src.applications.efficientnet_v2 import DEFAULT_BLOCKS_ARGS as DEFAULT_BLOCKS_ARGS_V2
from keras.src.applications.efficientnet_v2 import EfficientNetV2
from keras.src.applications.resnet import ResNet, stack_residual_blocks_v1, stack_residual_blocks_v2

from kcv.models import registry
from kcv.models.applications import Application
from kcv.models.networks import convnext, densenet, mobilenet_v3, resnet


def resnet50(**options: Any) -> keras.Model:
    """Builds a ResNet of one block per stage, three in the last, an eighth as wide; arguments as of Keras' ResNet50."""

    def stages(x: Any) -> Any:
        for name, filters, blocks, stride in (("conv2", 8, 1, 1), ("conv3", 16, 1, 2), ("conv4", 32, 1, 2)):
            x = stack_residual_blocks_v1(x, filters, blocks, stride1=stride, name=name)
        return stack_residual_blocks_v1(x, 64, 3, name="conv5")

    return ResNet(stages, preact=False, use_bias=True, name="resnet50", **options)


def efficientnet_b0(*, stages: int = 2, **options: Any) -> keras.Model:
    """Builds an EfficientNet of its first stages and its last, a quarter as wide; arguments as of EfficientNetB0.

    Kernels of 3 and 5, strides of 1 and 2, and a block with a shortcut are among them.
    """
    blocks = [*DEFAULT_BLOCKS_ARGS[1 : stages + 1], DEFAULT_BLOCKS_ARGS[-1]]
    return EfficientNet(0.25, 1.0, 224, blocks_args=blocks, name="efficientnetb0", weights_name="b0", **options)


def efficientnet_b1(**options: Any) -> keras.Model:
    """Builds an EfficientNet like `efficientnet_b0`, with as many more blocks per stage as B1 has."""
    blocks = [*DEFAULT_BLOCKS_ARGS[1:3], DEFAULT_BLOCKS_ARGS[-1]]
    return EfficientNet(0.25, 1.1, 240, blocks_args=blocks, name="efficientnetb1", weights_name="b1", **options)


def resnet50v2(**options: Any) -> keras.Model:
    """Builds a ResNet V2 of two blocks per stage, an eighth as wide; arguments as of Keras' ResNet50V2."""

    def stages(x: Any) -> Any:
        for name, filters in (("conv2", 8), ("conv3", 16), ("conv4", 32)):
            x = stack_residual_blocks_v2(x, filters, 2, name=name)
        return stack_residual_blocks_v2(x, 64, 2, stride1=1, name="conv5")

    return ResNet(stages, preact=True, use_bias=True, name="resnet50v2", **options)


def efficientnet_v2(name: str, first: int) -> Callable[..., keras.Model]:
    """Returns a builder of an EfficientNetV2 of a stage of each kind, a quarter as wide."""
    kinds = DEFAULT_BLOCKS_ARGS_V2[name]
    blocks = [{**kinds[stage], "num_repeat": 2} for stage in (0, 1, first, 5)]

    def make(**options: Any) -> keras.Model:
        return EfficientNetV2(0.25, 1.0, 224, name=name, weights_name="b0", blocks_args=blocks, **options)

    return make


def keras_convnext(**options: Any) -> keras.Model:
    """Builds the ConvNeXt that `convnext((1, 1, 2, 1), ...)` is like; arguments as of Keras' ConvNeXtTiny."""
    return ConvNeXt([1, 1, 2, 1], [8, 16, 24, 32], name="convnext_tiny", **options)


_BLOCKS = (
    mobilenet_v3.Block(3, 16, 16, True, "relu", 2),
    mobilenet_v3.Block(3, 32, 16, False, "relu"),
    mobilenet_v3.Block(5, 48, 24, True, "hard_silu", 2),
)
_MOBILENET = mobilenet_v3.mobilenet_v3(_BLOCKS, 48)
_CONVNEXT = convnext.convnext((1, 1, 2, 1), 0.1, (8, 16, 24, 32))
_BASIC = resnet.basic_resnet((1, 1, 1, 3), 8)
_V2_B = efficientnet_v2("efficientnetv2-b0", 3)

MAKERS: dict[str, Callable[..., keras.Model]] = {
    "resnet18": _BASIC,
    "resnet34": _BASIC,
    "resnet50": resnet50,
    "resnet101": resnet50,
    "resnet50v2": resnet50v2,
    "efficientnet_b0": efficientnet_b0,
    "efficientnet_lite0": efficientnet_b0,
    "efficientnet_lite1": efficientnet_b1,
    "efficientnet_lite2": efficientnet_b1,
    "efficientnet_v2_b0": _V2_B,
    "efficientnet_v2_b1": _V2_B,
    "efficientnet_v2_b2": _V2_B,
    "efficientnet_v2_b3": _V2_B,
    "efficientnet_v2_s": efficientnet_v2("efficientnetv2-s", 3),
    "mobilenet_v3_small": _MOBILENET,
    "mobilenet_v3_large": _MOBILENET,
    "densenet121": densenet.densenet((2, 2, 2, 2), 16, 8),
    "convnext_tiny": _CONVNEXT,
    "convnext_small": _CONVNEXT,
}
FEATURES = {name: 320 for name in MAKERS if name.startswith("efficientnet")}
FEATURES |= dict.fromkeys(("resnet50", "resnet101", "resnet50v2"), 256) | dict.fromkeys(("resnet18", "resnet34"), 64)
FEATURES |= dict.fromkeys(("efficientnet_lite1", "efficientnet_lite2"), 1280)
FEATURES |= {"mobilenet_v3_small": 48, "mobilenet_v3_large": 48, "densenet121": 32}
FEATURES |= {"convnext_tiny": 32, "convnext_small": 32}
"""Channels of the last layer."""
FAMILIES = (
    "resnet18",
    "resnet50",
    "resnet50v2",
    "efficientnet_b0",
    "efficientnet_lite1",
    "efficientnet_v2_s",
    "mobilenet_v3_small",
    "densenet121",
    "convnext_tiny",
)
"""One toy of each kind, for the fast set; the others are built by the same functions."""
OWN = (
    "resnet18",
    "resnet34",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "densenet121",
    "convnext_tiny",
    "convnext_small",
)
"""Networks that kcv builds itself."""
KERAS = {name: make for name, make in MAKERS.items() if name not in OWN}
KERAS |= dict.fromkeys(("convnext_tiny", "convnext_small"), keras_convnext)
"""What builds the toys in keras.applications."""


@contextmanager
def small_networks() -> Iterator[None]:
    """Makes kcv build the toys in place of the networks of their names, and read files of them."""
    with pytest.MonkeyPatch.context() as patch:
        for name, make in MAKERS.items():
            network = registry.get(name)
            assert isinstance(network.build, Application)
            keras_file = network.keras_file
            if keras_file and name in KERAS:
                keras_file = replace(keras_file, make=KERAS[name])
            build = replace(network.build, make=make)
            change_entry(patch, name, build=build, features=FEATURES[name], keras_file=keras_file)
        yield


def change_entry(patch: pytest.MonkeyPatch, name: str, **changes: Any) -> None:
    """Puts an entry of the registry in its place that says something else."""
    patch.setitem(registry._NETWORKS, name, replace(registry.get(name), **changes))
