"""Training images and what augmentation makes of them in the first epochs, to be looked at."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kcv.config import AugmentConfig, Config
from kcv.data.batches import TrainingBatches
from kcv.data.dataset import Images, Source
from kcv.data.loading import evenly, own_size
from kcv.errors import DataError, ImageError

_IMAGES: Final = 6
_EPOCHS: Final = 7


@dataclass(frozen=True)
class AugmentedViews:
    """Some images, each followed by its augmented views.

    Attributes:
        images: uint8 [n, 1 + epochs, size, size, 3]: an image as the model receives it, then in each epoch.
        titles: the class of each image.
        note: the augmentation in one line.
    """

    images: NDArray[np.uint8]
    titles: tuple[str, ...]
    note: str


def augmented_views(config: Config, source: Source) -> AugmentedViews:
    """Augments a few images of the training split as the first epochs of a training would.

    They are augmented as a batch of their own, so that mixup and CutMix mix them with each other.

    Args:
        config: augmentation, seed and image size.
        source: the images.

    Raises:
        ConfigError: an augmentation does not fit the images' size, or needs an extra that is not installed.
        DataError: no image of the split can be read.
    """
    images = _few(config, source)
    batches = TrainingBatches(
        images,
        num_classes=len(source.class_names),
        batch_size=len(images),
        augment=config.augment,
        seed=config.seed,
        device="cpu",
        workers=0,
    )
    views = np.empty((len(images), 1 + _EPOCHS, images.size, images.size, 3), np.uint8)
    assert images.pixels is not None  # `_few` decodes them
    views[:, 0] = images.pixels
    for epoch in range(_EPOCHS):
        changed, _ = batches.batch(epoch, 0)
        views[batches.order(epoch)[0].indices, 1 + epoch] = changed.float().round().clamp(0, 255).byte().numpy()
    titles = tuple(source.class_names[label] for label in images.labels)
    return AugmentedViews(views, titles, describe(config.augment))


def _few(config: Config, source: Source) -> Images:
    """Returns a few readable training images, spread over the split, at the size of the model."""
    size = config.data.image_size or own_size(source)
    every = Images(source.splits["train"], size, config.data.resize)
    pixels, chosen = [], []
    for place in evenly(len(every), 4 * _IMAGES)[_spread(4 * _IMAGES, len(every))]:
        try:
            pixels.append(every.read(int(place)))
        except (ImageError, OSError):  # the check reports it
            continue
        chosen.append(int(place))
        if len(chosen) == _IMAGES:
            break
    if not chosen:
        raise DataError(f"{source.name}: has no image that can be read, to draw augmented")
    order = np.argsort(chosen)
    samples = every.samples.take(np.array(chosen)[order])
    return replace(every, samples=samples, pixels=np.stack(pixels)[order])


def _spread(count: int, available: int) -> NDArray[np.int64]:
    """Returns positions in an order in which those that come first are spread already."""
    places = np.arange(min(count, available))
    return np.concatenate([places[first::4] for first in range(4)])


def describe(augment: AugmentConfig) -> str:
    """Returns the augmentation in one line: its policy, and what differs from the defaults."""
    plain = AugmentConfig()
    given = {key: value for key, value in augment.model_dump().items() if value != getattr(plain, key)}
    policy = given.pop("policy", None)
    if "layers" in given:
        given["layers"] = "[" + ", ".join(str(layer["name"]) for layer in given["layers"]) + "]"
    keys = ", ".join(f"{key}={value}" for key, value in given.items()) or "no augmentation"
    return f"{policy}: {keys}" if policy else keys
