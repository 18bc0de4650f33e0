"""What a training is made of, gathered before anything is written: images, weights, device, teacher; and the model.

configuration -> data, completed configuration, weights -> `Inputs` -> the model
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kcv.common.text import printable
from kcv.config import AUTO, Config
from kcv.data import loading
from kcv.data.dataset import Dataset, Images, Pixels, Source
from kcv.data.rarity import ADVICE, find_rare
from kcv.distributed.group import Group
from kcv.errors import ConfigError, UsageError
from kcv.inference.splits import working_folder
from kcv.metrics.conformal import require_images
from kcv.models import registry
from kcv.models.pretrained import Pretrained
from kcv.models.weights.loading import load as load_weights
from kcv.native.device import describe_device, resolve_device
from kcv.native.giving_way import follow_load
from kcv.native.memory import keep_freed_memory
from kcv.training import automatic, environment, own_weights
from kcv.training.distillation import Teacher, open_teacher
from kcv.training.extensions import Extensions
from kcv.training.loop import choose_precision, plan, syncs_batchnorm
from kcv.training.own_function import OwnFunction
from kcv.training.own_model import check_place, share_weights
from kcv.training.starting import Start
from kcv.training.time_budget import Clock

_log = logging.getLogger(__name__)

_MOST_FITTING_IMAGES = 5_000
_MOST_FITTING_PIXELS = 20_000_000
"""How much of the training split normalisation and whitening are fitted to; their moments do not change with more."""


@dataclass(frozen=True)
class Inputs:
    """What a run is made of, gathered before it has a folder.

    Attributes:
        config: the configuration, complete.
        dataset: the images.
        device: the device type.
        policy: the dtype policy.
        pretrained: initial weights, if there are some.
        own: the user's own model, or the function that returns it; None for one of kcv's networks.
        environment: the content of `environment.json`.
        teacher: the model that is learned from, beside the labels; None for none.
    """

    config: Config
    dataset: Dataset
    device: str
    policy: str
    pretrained: Pretrained | None
    own: keras.Model | OwnFunction | None
    environment: dict[str, Any]
    teacher: Teacher | None = None

    @property
    def function(self) -> OwnFunction | None:
        """The function that returns the user's own model, if there is one."""
        return self.own if isinstance(self.own, OwnFunction) else None

    @property
    def variant(self) -> str | None:
        """The variant of kcv's network; None if it has none, and for the user's own model."""
        return registry.variant_of(self.config.model, self.pretrained) if self.own is None else None

    @property
    def identity(self) -> tuple[str, ...]:
        """What decides frozen features, beside the backbone and which images there are."""
        versions, dataset = environment.versions(), self.dataset
        packages = (versions[name] for name in ("kcv", "torch", "keras"))
        computation = (self.policy, self.device, *packages, version("pillow"))
        pixels = (dataset.fingerprint, dataset.image_size, dataset.resize)
        return tuple(map(str, (self.config.model.name, self.variant, *pixels, *computation)))


def gather(begin: Start, extensions: Extensions, group: Group, clock: Clock) -> Inputs:
    """Opens the data, completes the configuration and reads the weights, and says what is trained on what.

    Args:
        begin: what the training begins with.
        extensions: what was passed from Python.
        group: the processes; all of them call it.
        clock: the time that the training may take.

    Raises:
        KcvError: as `kcv.train`; nothing has been written.
    """
    device = resolve_device(begin.config.device)
    if device == "cpu":
        keep_freed_memory()
        follow_load(logging.INFO)
    with group.local_main_process_first():
        source = loading.source_of(begin.config.data, began_in=begin.began_in)
        own = begin.own_function() or extensions.model
    config, chosen = _complete(begin, source, device, clock, group, own=own is not None)
    policy, why = choose_precision(config, device)
    with group.local_main_process_first():
        if own is None:
            pretrained = load_weights(config.model)
        else:
            pretrained = own_weights.read(config.model.weights) if isinstance(own, OwnFunction) else None
        dataset = loading.load(config.data, source=source, test=config.train.final_split == "test")
    if chosen:
        _log.info("auto       %s", chosen)
    if config.train.coverage is not None:
        require_images(config.train.coverage, len(dataset.val))
    _say(config, dataset, device, (policy, why), group)
    described = _environment(config, dataset, device, policy, pretrained, extensions)
    if chosen:
        described["automatic"] = chosen
    if begin.record is not None:
        begin.record.require_data(dataset)
        begin.record.require_machine(described)
    with group.local_main_process_first():
        teacher = _teacher(begin, config, dataset, device)
    return Inputs(config, dataset, device, policy, pretrained, own, described, teacher)


def _teacher(begin: Start, config: Config, dataset: Dataset, device: str) -> Teacher | None:
    """Opens the model to learn from, the same as when the run began; None if there is none.

    Raises:
        KcvError: as `open_teacher`; or there was one when the run began, and now there is none, or the other way round.
    """
    named, record = config.train.teacher, begin.record
    if record is not None and (named is None) != (record.teacher is None):
        then = "without" if record.teacher is None else "with"
        raise UsageError(f"--resume: the run began {then} a train.teacher.")
    if named is None:
        return None
    folder = Path()
    if begin.folder is not None and record is not None and named == record.config.get("train.teacher"):
        folder = working_folder(begin.folder.path)  # of the run, which may have been started elsewhere
    digest = record.teacher if record is not None else None
    teacher = open_teacher(named, dataset.class_names, device, folder, digest)
    weight, temperature = config.optim.distill_weight, config.optim.distill_temperature
    _log.info("teacher    %s, at %d px: weight %g, temperature %g", printable(named), teacher.size, weight, temperature)
    return teacher


def _complete(
    begin: Start, source: Source, device: str, clock: Clock, group: Group, *, own: bool
) -> tuple[Config, str | None]:
    """Returns the configuration with what it left open, and one line about the choice; the same in all processes.

    Raises:
        ConfigError: `train.minutes` under torchrun, or with a model of the user's own; a teacher and no network.
        KcvError: as `automatic.resolve`.
    """
    config = begin.config
    timed = automatic.is_timed(config)
    if begin.record is not None or (own and not timed):
        return config, None
    if config.train.teacher is not None and config.model.name == AUTO:
        raise ConfigError(["train.teacher: needs the network that learns from it; set model.name."])
    if timed and own:
        raise ConfigError(["train.minutes: allowed with kcv's own networks only; set train.epochs."])
    if timed and group.is_distributed:
        raise ConfigError(["train.minutes: allowed without torchrun only, as speeds are measured in one process."])
    return group.run_on_main_process(lambda: automatic.resolve(config, source, device, clock))


def _say(config: Config, dataset: Dataset, device: str, policy: tuple[str, str], group: Group) -> None:
    """Logs what is trained on what."""
    _log.info("data       %s", _describe_data(dataset, tests=config.train.final_split == "test"))
    for line in dataset.understood:
        _log.info("           %s", line)
    _say_balance(config, dataset)
    _log.info("device     %s (%s), %s: %s", device, describe_device(device), *policy)
    if group.is_distributed:
        synced = "the whole batch" if syncs_batchnorm(config, group.world_size) else "each process's part"
        _log.info("processes  %d, which share each batch; batch normalisation by %s", group.world_size, synced)


def _say_balance(config: Config, dataset: Dataset) -> None:
    """Logs what is done about classes of different sizes, or what could be done about a rare one."""
    weights = config.data.class_weights if isinstance(config.data.class_weights, str) else "by name"
    done = {"weights": weights, "sampling": config.data.sampling, "loss": config.optim.loss}
    done = {name: how for name, how in done.items() if how not in ("none", "cross_entropy")}
    if shown := [f"{name} {how}" for name, how in done.items()]:
        _log.info("classes    %s", ", ".join(shown))
    elif (rarity := find_rare(dataset.train.labels, dataset.class_names)) is not None:
        _log.warning("classes    %s; %s", rarity.describe(), ADVICE)


def _environment(
    config: Config,
    dataset: Dataset,
    device: str,
    policy: str,
    pretrained: Pretrained | None,
    extensions: Extensions,
) -> dict[str, Any]:
    """Returns the content of `environment.json`."""
    described = environment.describe(
        device=device,
        precision=policy,
        seed=config.seed,
        data_fingerprint=dataset.fingerprint,
        weights=pretrained.source if pretrained else None,
    )
    if reason := extensions.not_resumable:
        _log.warning("resumable  %s", reason)
        described["resumable"] = reason
    return described


def build(inputs: Inputs, group: Group) -> keras.Model:
    """Returns the model to train: one of kcv's networks, the caller's own, or what the user's function returns.

    It is uncompiled, and the same in all processes: images, RGB 0-255 [batch, size, size, 3], in; logits out.

    Args:
        inputs: what the training is made of.
        group: the processes; all of them call it.

    Raises:
        KcvError: the weights do not fit, or the user's function returns no model that can be trained.
    """
    config, dataset, pretrained, own = inputs.config, inputs.dataset, inputs.pretrained, inputs.own
    keras.utils.set_random_seed(config.seed)
    if own is not None:
        classes = len(dataset.class_names)
        built = own.build(dataset.image_size, classes, inputs.policy) if isinstance(own, OwnFunction) else own
        check_place(built, classes, inputs.device)
        if pretrained is not None:
            own_weights.assign(pretrained, built, dataset.class_names, config.model.name)
        share_weights(built, group)
        return built
    model = registry.build(
        config.model,
        dataset.image_size,
        len(dataset.class_names),
        _sample(dataset.train),
        pretrained,
        class_names=dataset.class_names,
    )
    if registry.get(model.name).imagenet or pretrained or plan(config)[0].frozen:
        _log.info("weights    %s", pretrained.source if pretrained else "random")
    return model


def _sample(images: Images) -> Pixels:
    """Returns training images spread evenly over the split, uint8 [n, size, size, 3]."""
    count = min(len(images), _MOST_FITTING_IMAGES, max(1, _MOST_FITTING_PIXELS // images.size**2))
    indices = loading.representative(images, count)
    if images.pixels is not None:
        return images.pixels[indices]
    return np.stack([images.read(int(index)) for index in indices])


def _describe_data(dataset: Dataset, *, tests: bool) -> str:
    counts = [f"{len(dataset.train):,} train", f"{len(dataset.val):,} val"]
    if dataset.test:
        counts.append(f"{len(dataset.test):,} test")
    place = "in memory" if dataset.in_memory else "streamed from disk"
    size, classes = dataset.image_size, len(dataset.class_names)
    missing = "" if dataset.test else ", no test split" if tests else ", test split not read"
    return f"{dataset.name}: {', '.join(counts)} images of {classes} classes at {size} px, {place}{missing}"
