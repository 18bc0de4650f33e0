"""Training: configuration -> data -> model -> fit -> artifact."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import numpy as np
import torch

from kcv.common.files import write_csv
from kcv.common.launch import Launch
from kcv.config import AUTO, Config
from kcv.data import loading
from kcv.data.dataset import Dataset, Images, Pixels, Source
from kcv.data.rarity import ADVICE, find_rare
from kcv.distributed.connecting import connect
from kcv.distributed.group import Group
from kcv.errors import ConfigError, UsageError
from kcv.inference.splits import working_folder
from kcv.metrics.conformal import require_images
from kcv.models import registry
from kcv.models.pretrained import Pretrained
from kcv.models.weights.loading import load as load_weights
from kcv.native.device import describe_device, device_scope, resolve_device
from kcv.native.giving_way import follow_load
from kcv.native.memory import enough_memory, keep_freed_memory
from kcv.native.precision import precision_scope
from kcv.reporting import plots
from kcv.tasks.report import report
from kcv.tracking import Tracker
from kcv.training import automatic, environment, lr_range, own_weights
from kcv.training.distillation import Teacher, open_teacher
from kcv.training.extensions import Extensions
from kcv.training.finalize import Result
from kcv.training.loop import TrainingContext, choose_precision, fit, open_batches, plan, syncs_batchnorm
from kcv.training.own_function import OwnFunction
from kcv.training.own_model import check_place, digest_of, share_weights
from kcv.training.resume.record import OwnSource
from kcv.training.resume.stop_request import StopRequest
from kcv.training.run_folder import Run
from kcv.training.run_setup import ActiveRun, open_on_main_process, open_run, require_space
from kcv.training.starting import Start, start
from kcv.training.time_budget import Clock

_log = logging.getLogger(__name__)

_MOST_FITTING_IMAGES = 5_000
_MOST_FITTING_PIXELS = 20_000_000
"""How much of the training split normalisation and whitening are fitted to; their moments do not change with more."""


def train(
    config: Config | None = None,
    *,
    resume: str | Path | None = None,
    model: keras.Model | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    metrics: Sequence[keras.metrics.Metric] = (),
    tracker: Tracker | None = None,
    named: Collection[str] | None = None,
    began: float | None = None,
) -> Run:
    """Trains a model and leaves a run folder, or continues a run that was cut short.

    A continued run ends as it would have ended: the same weights, history and figures bit for bit, on the same machine.
    That holds with a model, callbacks and metrics of your own as well, if they are passed again.

    Under torchrun all processes call it, share each batch, and return the same; the first one writes and speaks.

    Args:
        config: what to train on what, and how; see `kcv.Config`. By default the defaults, or those of the run.
        resume: the folder of a run to continue.
        model: a functional Keras model in place of the configured one, uncompiled: RGB 0-255 of its own fixed size in,
            float32 logits out, one for each class; of Keras' own layers, as its file would not open otherwise. It is
            trained in place. It decides `data.image_size` and `precision`; the section `model` must be as it is by
            default. Under torchrun the first process's weights are all processes' weights. A function that builds such
            a model can be named instead: `Config.load(model="my_net.py:build")`.

                inputs = keras.Input((32, 32, 3))
                x = keras.layers.Rescaling(1 / 255)(inputs)
                x = keras.layers.Conv2D(32, 3, activation="relu")(x)
                x = keras.layers.GlobalAveragePooling2D()(x)
                kcv.train(config, model=keras.Model(inputs, keras.layers.Dense(10)(x)))

        callbacks: Keras callbacks, which run on the compiled model; where a run has two stages, in each of them. What
            one adds to the logs of an epoch is written to `history.csv`, shown and tracked. The learning rate is the
            schedule's, and not theirs to set. With `state_dict()` and `load_state_dict(state)` a callback takes part in
            checkpoints (see `kcv.training.resume.user_state` for what may be in it; one that keeps nothing returns
            {}). In a continued run `on_train_begin` and, of the epoch in which it was cut, `on_epoch_begin` are called
            again, and then the state is put back. One without the two makes a run that says, in a line at its start and
            as `resumable` in its `environment.json`, that it cannot be continued bit for bit. Under torchrun they run
            in all processes, and must decide alike; the state is the first one's.

                class Count(keras.callbacks.Callback):
                    steps = 0

                    def on_train_batch_end(self, batch, logs=None):
                        self.steps += 1

                    def state_dict(self):
                        return {"steps": self.steps}

                    def load_state_dict(self, state):
                        self.steps = state["steps"]

                kcv.train(config, callbacks=[Count()])

        metrics: Keras metrics, computed from one-hot targets (which augmentation and label smoothing may have mixed)
            and logits, beside loss and accuracy: in the progress line, the tracker, the learning curves, further
            columns of `history.csv`, and as a choice of `train.monitor`. Of several processes they are averaged,
            weighted by the images of each.

                top5 = keras.metrics.TopKCategoricalAccuracy(5, name="top5")
                kcv.train(kcv.Config.load(data="cifar10", **{"train.monitor": "val_top5"}), metrics=[top5])

        tracker: records the run in place of what `tracking` asks for; see `kcv.tracking.Tracker` for what it needs.

                from kcv.tracking import NoTracker

                class Printer(NoTracker):
                    def log_metrics(self, metrics, step):
                        print(step, dict(metrics))

                kcv.train(config, tracker=Printer())

        named: the keys of `config`, dotted, that the caller has chosen, where the others are of that folder; None: all
            of them. A run that somebody else may have begun is continued with a tracking store or data elsewhere only
            where `tracking.uri` and `data.source` are among them.

        began: when the command began, as `time.perf_counter()` counts, for `train.minutes`; None: now.

    Returns:
        The finished run: its folder, model file and metrics.

    Raises:
        KcvError: when the data, device, tracking store or output folder cannot be used, or training diverges; when the
            run to continue began with another configuration, other data or other callbacks and metrics; when what was
            passed cannot be used. Whatever is wrong with what was passed is found before there is a run folder.
        KeyboardInterrupt: after Ctrl-C or SIGTERM; there is a checkpoint of the last step then.
    """
    extensions = Extensions(model, tuple(callbacks), tuple(metrics), tracker)
    stop_request = StopRequest(ignore_repeats=Launch.current().is_distributed)
    with stop_request.listening(), connect() as group, ExitStack() as held, enough_memory():
        begin = group.run_on_main_process(lambda: start(config, resume, named, held, extensions))
        if isinstance(begin, Run):
            return begin
        return _train(begin, extensions, stop_request, held, group, Clock(begin.config.train.minutes, began))


@dataclass(frozen=True)
class LearningRates:
    """The result of a learning-rate range test.

    Attributes:
        directory: the folder with `lr_finder.csv` and `lr_finder.png`.
        suggestion: the suggested peak learning rate, `optim.lr`.
        steepest: the rate at which the loss falls fastest.
        configured: the rate in the configuration.
        steps: number of steps.
    """

    directory: Path
    suggestion: float
    steepest: float
    configured: float
    steps: int


def find_lr(config: Config | None = None) -> LearningRates:
    """Trains for some 100 steps at a learning rate that grows from step to step, and suggests one; keeps no weights.

    Args:
        config: what would be trained; see `train`.

    Raises:
        KcvError: as `train`; or the loss never falls.

    Example:
        >>> kcv.tasks.train.find_lr(kcv.Config.load(data="photos")).suggestion
    """
    if Launch.current().is_distributed:
        raise UsageError("--find_lr: allowed without torchrun only.")
    config = config or Config()
    with ExitStack() as held, enough_memory():
        group = held.enter_context(connect())
        begin = Start(Extensions().fit_into(config))
        inputs = _gather(begin, Extensions(), group, Clock(config.train.minutes))
        config = inputs.config
        with (
            open_batches(config, inputs.dataset, inputs.device, group) as batches,
            device_scope(inputs.device),
            precision_scope(inputs.policy),
        ):
            found = lr_range.run(_build(inputs, group), batches, config, _identity(inputs))
    name = datetime.now().strftime("lr_%Y-%m-%d_%H-%M-%S")
    folder = Path(config.output_dir or Path("runs") / config.name / name)
    rows = zip(found.rates, found.losses, found.smoothed, strict=True)
    write_csv(folder / "lr_finder.csv", ("learning_rate", "loss", "smoothed_loss"), rows)
    plots.learning_rate_range(found.rates, found.losses, found.smoothed, found.suggestion, folder / "lr_finder.png")
    return LearningRates(folder, found.suggestion, found.steepest, config.optim.lr, len(found.rates))


@dataclass(frozen=True)
class _Inputs:
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


def _train(
    begin: Start, extensions: Extensions, stop_request: StopRequest, held: ExitStack, group: Group, clock: Clock
) -> Run:
    began = time.perf_counter()
    inputs = _gather(begin, extensions, group, clock)
    config, dataset, function = inputs.config, inputs.dataset, inputs.function
    folder, record = begin.folder, begin.record
    resume_from = begin.state.of_process(group.rank, group.world_size) if begin.state else None
    device, policy = inputs.device, inputs.policy
    with open_batches(config, dataset, device, group) as batches, device_scope(device), precision_scope(policy):
        model = _build(inputs, group)
        if record is not None and function is not None:
            record.require_structure(digest_of(model))
        extensions.try_metrics(len(dataset.class_names), device)
        # So far all have drawn the same numbers; what layers drop must not be the same.
        if group.is_distributed:
            torch.manual_seed(config.seed + group.rank)

        def begin_run() -> ActiveRun:
            require_space(folder.path if folder else Path(config.output_dir or "runs"), model, config)
            # From here on there is a run: all that a wrong configuration can break has been tried.
            given = extensions.described()
            if function is not None:
                given["own_source"] = OwnSource(sha256=function.sha256, structure=digest_of(model))
            if inputs.teacher is not None:
                given["teacher"] = inputs.teacher.digest
            return open_run(
                config, dataset, inputs.environment, held, folder, record, tracker=extensions.tracker, extensions=given
            )

        active = open_on_main_process(group, begin_run, config)
        with active.recorded():
            source = function.source if function is not None else None
            is_own = inputs.own is not None
            result = Result(config, dataset, model, inputs.variant, policy, active.folder, group, is_own, source)
            if resume_from is not None:
                result.recall()
                _log.info("resume     epoch %d, step %d", resume_from.epoch + 1, resume_from.step)
            context = TrainingContext(
                history=active.folder.history if group.is_main_process else None,
                tracker=active.tracker,
                save=result.save,
                writer=active.writer() if group.is_main_process else None,
                stop_request=stop_request,
                callbacks=extensions.callbacks,
                metrics=extensions.metrics,
                higher=extensions.higher_is_better(config.train.monitor),
                teacher=inputs.teacher,
            )
            fitted = fit(model, batches, config, context, identity=_identity(inputs), resume_from=resume_from)
            figures = result.finish(fitted)
            if group.is_main_process:
                report(active.folder.path)
                active.folder.close()  # the run is complete; only tracking remains, and it may lag
                active.log_model()
            active.tracker.log_metrics(_scalars(figures), step=fitted.best_epoch)
            active.tracker.log_artifacts(active.folder.path)
    return Run(
        directory=active.folder.path,
        model_path=active.folder.model,
        metrics=figures,
        history=fitted.rows,
        best_epoch=fitted.best_epoch,
        seconds=time.perf_counter() - began,
        tracking=active.tracker.location,
        environment=inputs.environment,
    )


def _gather(begin: Start, extensions: Extensions, group: Group, clock: Clock) -> _Inputs:
    """Opens the data, completes the configuration and reads the weights, and says what is trained on what."""
    device = resolve_device(begin.config.device)
    if device == "cpu":
        keep_freed_memory()
        follow_load(logging.INFO)
    with group.local_main_process_first():
        options = loading.options_of(begin.config.data, began_in=begin.began_in)
        source = loading.open_source(begin.config.data.source, began_in=begin.began_in, options=options)
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
    return _Inputs(config, dataset, device, policy, pretrained, own, described, teacher)


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
    return open_teacher(named, dataset.class_names, device, folder, digest)


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


def _build(inputs: _Inputs, group: Group) -> keras.Model:
    """Returns the model to train: one of kcv's networks, the caller's own, or what the user's function returns."""
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


def _identity(inputs: _Inputs) -> tuple[str, ...]:
    """Returns what decides frozen features, beside the backbone and which images there are."""
    versions, dataset = environment.versions(), inputs.dataset
    packages = (versions[name] for name in ("kcv", "torch", "keras"))
    computation = (inputs.policy, inputs.device, *packages, version("pillow"))
    pixels = (dataset.fingerprint, dataset.image_size, dataset.resize)
    return tuple(map(str, (inputs.config.model.name, inputs.variant, *pixels, *computation)))


def _sample(images: Images) -> Pixels:
    """Returns training images spread evenly over the split, uint8 [n, size, size, 3]."""
    count = min(len(images), _MOST_FITTING_IMAGES, max(1, _MOST_FITTING_PIXELS // images.size**2))
    indices = loading.representative(images, count)
    if images.pixels is not None:
        return images.pixels[indices]
    return np.stack([images.read(int(index)) for index in indices])


def _describe_data(dataset: Dataset, *, tests: bool) -> str:
    counts = [f"{len(dataset.train):,} train", f"{len(dataset.val):,} val"]
    counts.append(f"{len(dataset.test):,} test" if dataset.test else "no test split" if tests else "test not read")
    place = "in memory" if dataset.in_memory else "streamed from disk"
    size = dataset.image_size
    return f"{dataset.name}: {', '.join(counts)} images of {len(dataset.class_names)} classes at {size} px, {place}"


def _scalars(figures: dict[str, Any]) -> dict[str, float]:
    """Returns the plain numbers among the metrics, named for their split."""
    return {
        f"{figures['split']}_{key}": float(value)
        for key, value in figures.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
