"""The training loop: runs each stage through Keras' `fit` with its own model, optimizer and callbacks."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import keras
import numpy as np
from numpy.typing import NDArray

from kcv.config import Config
from kcv.data.batches import InferenceBatches, TrainingBatches
from kcv.data.dataset import Dataset, Images
from kcv.distributed.group import SINGLE_PROCESS, Group
from kcv.inference import outputs
from kcv.models import registry
from kcv.models.backbone import Backbone
from kcv.native.model import NativeModel, compile_classifier, native_target
from kcv.native.parallel import ParallelModel, parallel_target
from kcv.native.precision import resolve_precision
from kcv.tracking import Tracker
from kcv.training.callbacks.checkpoint import Checkpoint, ResumingCallbackList
from kcv.training.callbacks.control import BestModel, Diverged, EarlyStopping, FreshStatistics, TerminateOnNaN
from kcv.training.callbacks.logging import AverageMetrics, CSVLogger, EpochTimer, ProgressLogger, TrackerCallback
from kcv.training.distillation import Teacher, distilled
from kcv.training.feature_batches import FeatureBatches
from kcv.training.features import FeatureStore
from kcv.training.loss import build_loss, class_weights
from kcv.training.optimizer import build_optimizer
from kcv.training.resume.state import State, Stateful
from kcv.training.resume.stop_request import StopRequest
from kcv.training.resume.user_state import UserState
from kcv.training.resume.writer import Writer

_log = logging.getLogger(__name__)

_MOST_ROLLBACKS: Final = 3
_ROLLBACK_LR_FACTOR: Final = 0.5  # the learning rate after a rollback, relative to the one before

_FEW: Final = 32
"""Images per process below which per-process statistics are too coarse (Wu & He 2018, arXiv 1803.08494, fig. 1)."""


@dataclass(frozen=True)
class Stage:
    """Consecutive epochs trained with one optimizer and one learning-rate schedule.

    Attributes:
        first: the first epoch, from 0.
        end: one past the last epoch.
        frozen: whether the backbone is frozen.
        last: whether this is the final stage.
    """

    first: int
    end: int
    frozen: bool
    last: bool


def plan(config: Config) -> tuple[Stage, ...]:
    """Returns the stages of a run, in order: one, or two with `model.unfreeze_after`."""
    epochs, frozen = config.train.epochs, config.model.unfreeze_after
    if config.model.mode == "feature_extraction":
        return (Stage(0, epochs, frozen=True, last=True),)
    if frozen:
        return (Stage(0, frozen, frozen=True, last=False), Stage(frozen, epochs, frozen=False, last=True))
    return (Stage(0, epochs, frozen=False, last=True),)


def learns_batch_norm(config: Config) -> bool:
    """Whether fine-tuning also trains the backbone's BatchNormalization."""
    if config.model.freeze_batch_norm is not None:
        return not config.model.freeze_batch_norm
    # Statistics that were frozen in the first stage must stay frozen: the weights have adapted to them.
    return config.model.unfreeze_after == 0


def choose_precision(config: Config, device: str) -> tuple[str, str]:
    """Returns the dtype policy of a run, and the reason for it as text for a log line.

    Raises:
        DeviceError: the device cannot compute in the configured precision.
    """
    network = registry.find(config.model.name)  # None for a model of the user's own
    depthwise = config.model.mode == "fine_tuning" and network is not None and network.depthwise
    return resolve_precision(config.precision, device, trains_depthwise=depthwise)


def syncs_batchnorm(config: Config, processes: int) -> bool:
    """Whether batch normalisation uses statistics of the whole batch when several processes share it."""
    if config.train.sync_batchnorm is not None:
        return config.train.sync_batchnorm
    return config.data.batch_size < _FEW * processes


@dataclass(frozen=True)
class Batches:
    """The batches that `fit` trains and validates on.

    Attributes:
        train: shuffled, augmented, with smoothed labels.
        val: in order, not augmented; with several processes, each has its own part.
        group: the processes that share the work.
        class_weights: weights of the classes in the training loss, float64 [classes]; None if they are equal.
    """

    train: TrainingBatches
    val: InferenceBatches
    group: Group = SINGLE_PROCESS
    class_weights: NDArray[np.float64] | None = None


@contextmanager
def open_batches(config: Config, dataset: Dataset, device: str, group: Group = SINGLE_PROCESS) -> Iterator[Batches]:
    """Yields the training and validation batches, and ends their worker processes on exit.

    Raises:
        ConfigError: an augmentation does not fit the size of the images, or classes are weighted that there are not.
        DataError: a batch has fewer images than there are processes.
    """
    classes, workers = len(dataset.class_names), config.data.workers
    weights = class_weights(config.data.class_weights, dataset.train.labels, dataset.class_names)
    train = TrainingBatches(
        dataset.train,
        num_classes=classes,
        batch_size=config.data.batch_size,
        augment=config.augment,
        label_smoothing=config.optim.label_smoothing,
        seed=config.seed,
        device=device,
        workers=workers,
        share=group.share,
        shuffle_buffer=config.data.shuffle_buffer_mb * 2**20,
        sampling=config.data.sampling,
    )
    size = outputs.batch_size_for(dataset.val.size)
    val = InferenceBatches(
        _own_part(dataset.val, group), num_classes=classes, batch_size=size, device=device, workers=workers
    )
    try:
        yield Batches(train, val, group, weights)
    finally:
        train.close()
        val.close()


def _own_part(images: Images, group: Group) -> Images:
    """Returns this process's part of a split, or all of it if there are fewer images than processes."""
    begin, end = group.share.bounds(len(images))
    if not group.is_distributed or len(images) < group.world_size:
        return images
    pixels = None if images.pixels is None else images.pixels[begin:end]
    return replace(images, samples=images.samples.take(np.arange(begin, end)), pixels=pixels)


@dataclass(frozen=True)
class TrainingContext:
    """Everything a training run needs besides its model and data.

    Attributes:
        history: the CSV file that gets one row per epoch; None writes no file.
        tracker: receives the same metrics.
        save: called with the epoch (from 1) each time the model's weights are the best so far.
        writer: writes checkpoints; None for no checkpoints. With several processes, only the main process has one.
        stop_request: whether training has been asked to stop.
        callbacks: the user's callbacks.
        metrics: the user's metrics, computed in addition to loss and accuracy.
        higher: whether a higher monitor is better; None infers it from the name.
        teacher: the model that is learned from, beside the labels; None for none.
    """

    history: Path | None
    tracker: Tracker
    save: Callable[[int], object]
    writer: Writer | None = None
    stop_request: StopRequest = field(default_factory=StopRequest)
    callbacks: Sequence[keras.callbacks.Callback] = ()
    metrics: Sequence[keras.metrics.Metric] = ()
    higher: bool | None = None
    teacher: Teacher | None = None


@dataclass(frozen=True)
class Fitted:
    """The result of `fit`.

    Attributes:
        best_epoch: the epoch (from 1) whose weights the model now has.
        rows: the rows of `history.csv`.
    """

    best_epoch: int
    rows: list[dict[str, float]]


def fit(
    model: keras.Model,
    batches: Batches,
    config: Config,
    context: TrainingContext,
    *,
    identity: Sequence[str],
    resume_from: State | None = None,
) -> Fitted:
    """Trains a model, stage by stage, and leaves it with the weights of the epoch that `train.keep` names.

    Args:
        model: uncompiled; it stays uncompiled.
        batches: the training batches, and the validation batches that find the best epoch.
        config: stages, optimizer, schedule, epochs, monitor, patience and moving average.
        context: everything else the run needs.
        identity: identifies the images and the network, see `kcv.training.features.FeatureStore`.
        resume_from: the state to resume from; None starts from the beginning.

    Raises:
        Diverged: the loss is not finite.
        KeyboardInterrupt: training was asked to stop; there is a checkpoint of the last step.
    """
    best = BestModel(model, config.train.monitor, context.save, higher=context.higher, keep=config.train.keep)
    history = CSVLogger(context.history)
    frozen = config.model.unfreeze_after
    progress = ProgressLogger(len(batches.train.images), len(batches.train), config.train.epochs, frozen)
    stage_fit = StageFit(Backbone.of(model), batches, config, context, best, history, progress, identity)
    stages = [stage for stage in plan(config) if resume_from is None or resume_from.epoch < stage.end]
    divergences = 0
    try:
        while stages:
            if resume_from is not None:
                best.weights = resume_from.best
            try:
                stage_fit.run(stages[0], resume_from)
            except Diverged as error:
                divergences += 1
                if stage_fit.last_good is None or divergences > _MOST_ROLLBACKS:
                    raise
                resume_from = stage_fit.last_good.with_lr_factor(_ROLLBACK_LR_FACTOR)
                epoch, factor = resume_from.epoch + 1, resume_from.lr_factor
                _log.warning("%s; back to epoch %d, at %g of the learning rate", error, epoch, factor)
            else:
                resume_from = None
                stages.pop(0)
    finally:
        progress.close()
    best.restore()
    return Fitted(best.best_epoch, history.rows)


@dataclass
class StageFit:
    """Fits the stages one after another.

    Attributes:
        backbone: the backbone of the model, which is uncompiled and stays uncompiled.
        batches: the training batches, and the validation batches that find the best epoch.
        config: the run's configuration.
        context: everything else the run needs.
        best: keeps the best weights across all stages.
        history: keeps the rows of all stages.
        progress: shows the progress of all stages.
        identity: see `kcv.training.features.FeatureStore`.
        last_good: the state to roll back to if a stage diverges; None if none is kept.
    """

    backbone: Backbone
    batches: Batches
    config: Config
    context: TrainingContext
    best: BestModel
    history: CSVLogger
    progress: ProgressLogger
    identity: Sequence[str]
    last_good: State | None = None

    def run(self, stage: Stage, resume_from: State | None) -> None:
        """Trains from the stage's first epoch, or from a state within it.

        Raises:
            Diverged: the loss is not finite.
            KeyboardInterrupt: training was asked to stop; there is a checkpoint of the last step.
        """
        began = time.perf_counter()
        fitted, train, val = self.prepare(stage)
        self.history.preparation += time.perf_counter() - began
        describe(self.backbone.model)
        # The train model shares layers and variables with the model itself, which has no optimizer or metrics, so
        # that its file opens without kcv.
        train_model = self.train_model(fitted, compile_on_gpu=self.config.train.compile and not stage.frozen)
        lr_factor = resume_from.lr_factor if resume_from else 1.0
        self._compile(train_model, stage, len(train), lr_factor)
        callbacks, stateful = self._callbacks(fitted, train, may_stop=stage.last)
        checkpoint = Checkpoint(
            self.backbone.model,
            train,
            stateful,
            self.context.writer,
            self.context.stop_request,
            resume_from=resume_from,
            lr_factor=lr_factor,
            keep_good=self.config.train.on_divergence == "rollback",
            wanted=self.config.train.checkpoint_seconds is not None,
            group=self.batches.group,
            user=UserState(self.context.callbacks),
        )
        train.set_epoch(stage.first)  # Keras draws a first batch when it builds the model
        try:
            # Not around all of this: features can take half an hour, and a signal must end that at once.
            with self.context.stop_request.between_steps():
                train_model.fit(
                    train.loader(),
                    validation_data=val.loader(),
                    epochs=stage.end,
                    initial_epoch=resume_from.epoch if resume_from else stage.first,
                    callbacks=ResumingCallbackList(
                        [*callbacks, checkpoint],
                        model=train_model,
                        epochs=stage.end,
                        steps=len(train),
                        skip=resume_from.step if resume_from else 0,
                    ),
                    shuffle=False,  # the batches shuffle themselves, and Keras warns about the default
                    verbose=0,
                )
        finally:
            self.last_good = checkpoint.last_good

    def prepare(
        self, stage: Stage
    ) -> tuple[keras.Model, TrainingBatches | FeatureBatches, InferenceBatches | FeatureBatches]:
        """Freezes or unfreezes the backbone; returns the model to fit and the batches to fit it on."""
        model, batches = self.backbone.model, self.batches
        if not stage.frozen:
            self.backbone.unfreeze(batch_norm=learns_batch_norm(self.config))
            return model, batches.train, batches.val
        self.backbone.freeze()
        device, epochs = outputs.model_device(model).type, stage.end - stage.first
        group = self.batches.group
        store = FeatureStore(self.backbone.features(), self.config, self.identity, device, epochs, group)
        return self.backbone.head(), store.training(batches.train), store.validation(batches.val)

    def train_model(self, fitted: keras.Model, *, compile_on_gpu: bool) -> NativeModel:
        """Returns the model that `fit` trains: it shares its layers with the fitted one."""
        device = outputs.model_device(fitted).type
        target = native_target(device, fitted, cpu_kernels=self.config.train.cpu_kernels)
        config, group = self.config, self.batches.group
        if not group.is_distributed:
            # The head alone is too small to benefit from compilation.
            split = config.train.on_out_of_memory == "split"
            train_model = NativeModel(
                fitted,
                target=target,
                compile_on_gpu=compile_on_gpu,
                split=split,
                cuda_graph=config.train.cuda_graph,
            )
        else:
            target = parallel_target(target, group, sync_batchnorm=syncs_batchnorm(config, group.world_size))
            train_model = ParallelModel(fitted, group, target=target, compile_on_gpu=compile_on_gpu)
        loss = build_loss(config.optim, self.batches.class_weights, outputs.model_device(fitted))
        train_model.training_loss = loss
        if self.context.teacher is not None:
            train_model.image_loss = distilled(self.context.teacher, loss, config.optim)
        return train_model

    def _compile(self, train_model: NativeModel, stage: Stage, steps: int, lr_factor: float) -> None:
        optimizer = build_optimizer(
            self.config.optim,
            steps_per_epoch=steps,
            epochs=stage.end - stage.first,
            lr_scale=lr_factor,
            ema=self.config.train.ema,
            depths=self.backbone.depths(),
        )
        compile_classifier(train_model, optimizer, self.context.metrics)

    def _callbacks(
        self, fitted: keras.Model, train: TrainingBatches | FeatureBatches, *, may_stop: bool
    ) -> tuple[list[keras.callbacks.Callback], dict[str, Stateful]]:
        """Returns the callbacks in dependency order, and kcv's own stateful callbacks by name."""
        config, context, group = self.config.train, self.context, self.batches.group
        timer = EpochTimer(train)
        # Checkpoints of all versions use these names.
        stateful: dict[str, Stateful] = {"clock": timer, "best": self.best, "history": self.history}
        # These come first: the other callbacks read what they change and add.
        callbacks: list[keras.callbacks.Callback] = [timer, TerminateOnNaN()]
        if group.is_distributed:
            callbacks.insert(0, AverageMetrics(group, train, self.batches.val))
        if config.ema is not None:
            # Before the callbacks that select: the best model has averaged weights.
            callbacks.append(keras.callbacks.SwapEMAWeights(swap_on_epoch=True))
        if isinstance(train, TrainingBatches):  # a head on stored features has no moving statistics
            callbacks.append(FreshStatistics(fitted, train, group))
        callbacks += context.callbacks  # what they add to an epoch's logs is written, shown and tracked
        callbacks += [self.best, self.history, TrackerCallback(context.tracker, self.history), self.progress]
        if config.patience is not None and may_stop:
            patience = EarlyStopping(config.monitor, config.patience, higher=context.higher)
            stateful["patience"] = patience
            callbacks.append(patience)
        return callbacks, stateful


def describe(model: keras.Model) -> None:
    """Logs how many parameters a model has, and how many of them are trainable."""
    total, trained = parameters(model)
    share = "" if trained == total else f", {trained:,} of them trained"
    _log.info("model      %s, %s parameters%s", model.name, f"{total:,}", share)


def parameters(model: keras.Model) -> tuple[int, int]:
    """Returns the number of a model's parameters and how many of them are trainable."""
    return int(model.count_params()), sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
