"""Networks whose maps can be checked: of the size of toys, with statistics as after training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import keras
import numpy as np
import pytest
from keras import layers
from small_networks import small_networks

from kcv.config import Config
from kcv.models import registry

CLASSES = 5

Build = Callable[..., keras.Model]


def noise(size: int, count: int = 4) -> np.ndarray:
    """Random images with some structure, uint8 [count, size, size, 3]."""
    rng = np.random.default_rng(1)
    coarse = rng.integers(0, 200, (count, 4, 4, 3)).repeat(size // 4, axis=1).repeat(size // 4, axis=2)
    return (coarse + rng.integers(0, 56, coarse.shape)).astype(np.uint8)


def as_if_trained(model: keras.Model, size: int) -> keras.Model:
    """Gives BatchNormalization the statistics of images, and the logits weights that lean to what is there.

    Without the first deep maps are all but flat; without the second they are small differences of large sums, and say
    more of rounding than of anything else.
    """
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.1
    for _ in range(2 if size < 100 else 1):
        model(noise(size, 4).astype(np.float32), training=True)
    kernel = model.get_layer("logits").kernel
    kernel.assign(kernel + 0.05)
    return model


@pytest.fixture(scope="session")
def build() -> Build:
    """Returns a function that builds one of kcv's networks, with fixed random weights; toys unless `true_size`."""

    def build(name: str, size: int = 32, *, settled: bool = True, true_size: bool = False) -> keras.Model:
        keras.utils.set_random_seed(7)
        width = 0.25 if name == "custom_cnn" else 1.0
        config = Config.load(**{"model.name": name, "model.weights": "none", "model.width": width})
        with nullcontext() if true_size else small_networks():
            model = registry.build(config.model, size, CLASSES, noise(size, 16))
        return as_if_trained(model, size) if settled else model

    return build


@pytest.fixture(scope="session")
def custom_cnn(build: Build) -> keras.Model:
    return build("custom_cnn")


@pytest.fixture(scope="session")
def resnet50(build: Build) -> keras.Model:
    return build("resnet50", 64)


@pytest.fixture(scope="session")
def true_resnet50(build: Build) -> keras.Model:
    return build("resnet50", 64, true_size=True)


def sequential(*stack: keras.layers.Layer, size: int = 16) -> keras.Model:
    """A plain model, built."""
    return keras.Sequential([keras.Input((size, size, 3)), *stack])


def redness(size: int = 16, data_format: str = "channels_last", weights: Sequence[float] = (1.0, -1.0)) -> keras.Model:
    """Two classes that see red: a 1x1 convolution gives 1 where it is, and `weights` are those of the logits."""
    first = layers.Permute((3, 1, 2)) if data_format == "channels_first" else layers.Identity()
    red = layers.Conv2D(1, 1, activation="relu", data_format=data_format, name="red")
    dense = layers.Dense(2, name="logits")
    pool = layers.GlobalAveragePooling2D(data_format=data_format)
    model = sequential(layers.Rescaling(1 / 255), first, red, pool, dense, size=size)
    red.set_weights([np.array([1.0, -1.0, -1.0], np.float32).reshape(1, 1, 3, 1), np.zeros(1, np.float32)])
    dense.set_weights([np.array([weights], np.float32), np.zeros(2, np.float32)])
    return model


def red_patch(size: int = 16) -> np.ndarray:
    """One grey image with a red patch at rows 2 to 5, columns 9 to 14: uint8 [1, size, size, 3]."""
    image = np.full((1, size, size, 3), 90, np.uint8)
    image[0, 2:6, 9:15] = (250, 10, 10)
    return image
