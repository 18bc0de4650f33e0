"""Runs the preprocessing layers of Keras itself, on the device, with randomness that follows from the batch alone.

Keras' layers draw from `SeedGenerator`s, whose state is a seed and a counter. Before each batch, every one of them is
set to a seed that follows from the batch's key, so that earlier batches do not matter. AugMix also draws from a
global generator: these are seeded for the batch, and put back as they were after it.
"""

from __future__ import annotations

import inspect
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from kcv.data.augment.layer_list import RANGE, Catalogue, build_layers, reason
from kcv.data.augment.tf_pipeline import Plain
from kcv.errors import ConfigError

_REFUSED: Final[Mapping[str, str]] = {
    "CenterCrop": "is not random; data.image_size and data.resize decide the size",
    "MaxNumBoundingBoxes": "is for boxes",
    "Resizing": "is not random; data.image_size and data.resize decide the size",
}
"""Layers that kcv cannot use in training, and why."""

_SEEDS: Final = 2**31 - 2**20  # seeds are 31 bits, and Keras adds its counter


def catalogue() -> Catalogue:
    """Returns Keras' preprocessing layers for images."""
    import keras

    base = next(kind for kind in keras.layers.RandomFlip.__mro__ if kind.__name__ == "BaseImagePreprocessingLayer")
    names = [
        name
        for name, kind in sorted(vars(keras.layers).items())
        if inspect.isclass(kind) and issubclass(kind, base) and name not in _REFUSED
    ]
    return Catalogue("Keras", keras.layers, names, _REFUSED, seeded=True)


class KerasPipeline:
    """A configuration's layers of Keras.

    Args:
        layers: `augment.layers`, validated.
        image_size: side of the images, in pixels.
        num_classes: width of the targets.
        device: the device of the batches.

    Raises:
        ConfigError: a layer is unknown, has wrong arguments, or cannot run here.
    """

    def __init__(
        self, layers: Sequence[Mapping[str, Any]], image_size: int, num_classes: int, device: torch.device | str
    ) -> None:
        self._device = torch.device(device)
        self._names = [f"augment.layers[{place}]: {entry['name']}" for place, entry in enumerate(layers)]
        self._layers = build_layers(catalogue(), layers)
        inner = [layer for outer in self._layers for layer in outer._flatten_layers()]
        self._generators = [generator for layer in inner for generator in _generators_of(layer)]
        # Errors appear only when the layers run: better now than in the first step of a run.
        numbers = np.random.default_rng(0).integers(0, 256, (4, image_size, image_size, 3), np.uint8)
        noise = torch.from_numpy(numbers).to(self._device)
        targets = torch.full((4, num_classes), 1 / num_classes, device=self._device)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns once of what Keras calls
            first, again = (self(((0, 0), noise, targets)) for _ in range(2))
        if not all(bool(tensor.isfinite().all()) for tensor in first):
            raise ConfigError(["augment.layers: give values that are no numbers; change their arguments"])
        if not all(torch.equal(a, b) for a, b in zip(first, again, strict=True)):
            raise ConfigError(["augment.layers: draw numbers that no seed repeats; use other layers"])

    def __call__(self, batch: Plain) -> tuple[Tensor, Tensor]:
        """Returns the augmented batch: images, float32 in 0 to 255, and targets, mixed if the images are."""
        import keras

        key, images, targets = batch
        seeds = np.random.SeedSequence(key).generate_state(len(self._generators) + 1, np.uint32) % _SEEDS
        for generator, seed in zip(self._generators, seeds, strict=False):
            generator.state.assign([int(seed), 0])
        changed: dict[str, Any] = {"images": images.to(torch.float32), "labels": targets}
        with (
            torch.no_grad(),
            _global_generators(int(seeds[-1])),
            keras.device("gpu" if self._device.type == "cuda" else self._device.type),
        ):
            for layer, where in zip(self._layers, self._names, strict=True):
                changed = _applied(layer, changed, where)
        return changed["images"].clamp(*map(float, RANGE)), changed["labels"]

    def stream(self, batches: Iterator[Plain]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the augmented batches, in order."""
        return map(self, batches)


@contextmanager
def _global_generators(seed: int) -> Iterator[None]:
    """Seeds the global generators that layers may draw from, for the block."""
    from keras.src.backend.common import global_state
    from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR

    before, numbers = random.getstate(), np.random.get_state()
    own = global_state.get_global_attribute(GLOBAL_SEED_GENERATOR)
    random.seed(seed)
    np.random.seed(seed)
    global_state.set_global_attribute(GLOBAL_SEED_GENERATOR, None)  # the next draw makes one, seeded by `random`
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(numbers)
        global_state.set_global_attribute(GLOBAL_SEED_GENERATOR, own)


def _generators_of(layer: Any) -> list[Any]:
    import keras

    return [value for value in vars(layer).values() if isinstance(value, keras.random.SeedGenerator)]


def _applied(layer: Any, data: Mapping[str, Any], where: str) -> dict[str, Any]:
    try:
        changed = layer(dict(data), training=True)
    except Exception as error:  # a third-party layer may raise anything
        raise ConfigError([f"{where} cannot run here: {reason(error)}"]) from error
    for name, tensor in data.items():
        got, wanted = (" x ".join(map(str, one.shape[1:])) for one in (changed[name], tensor))
        if got != wanted:
            raise ConfigError([f"{where} gives {name} of {got} instead of {wanted}; change its arguments"])
    return dict(changed)
