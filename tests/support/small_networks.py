"""ResNet-50 and EfficientNet-B0 as toys: Keras' own builders, with few and narrow blocks under the same layer names.

Graphs, layers and padding are of the same kinds, so what is true of them is true of the large ones but for the number
of blocks; a build takes a tenth of the time. The true sizes are in the complete set.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import keras
import pytest
from keras.src.applications.efficientnet import DEFAULT_BLOCKS_ARGS, EfficientNet
from keras.src.applications.resnet import ResNet, stack_residual_blocks_v1

from kcv.models import registry
from kcv.models.applications import Application


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


MAKERS = {"resnet50": resnet50, "efficientnet_b0": efficientnet_b0, "efficientnet_lite0": efficientnet_b0}
FEATURES = {"resnet50": 256, "efficientnet_b0": 320, "efficientnet_lite0": 320}
"""Channels of the last layer."""


@contextmanager
def small_networks() -> Iterator[None]:
    """Makes kcv build the toys in place of the networks of their names, and read files of them."""
    with pytest.MonkeyPatch.context() as patch:
        for name, make in MAKERS.items():
            network = registry.get(name)
            assert isinstance(network.build, Application)
            keras_file = network.keras_file and replace(network.keras_file, make=make)
            build = replace(network.build, make=make)
            change_entry(patch, name, build=build, features=FEATURES[name], keras_file=keras_file)
        yield


def change_entry(patch: pytest.MonkeyPatch, name: str, **changes: Any) -> None:
    """Puts an entry of the registry in its place that says something else."""
    patch.setitem(registry._NETWORKS, name, replace(registry.get(name), **changes))
