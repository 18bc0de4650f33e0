"""Keras' `fit` with everything around it: batches, optimizer, loss and callbacks, from the configuration."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from kcv import inference
from kcv.config import Config
from kcv.data.batches import InferenceBatches, TrainingBatches
from kcv.data.dataset import Dataset
from kcv.models.backbone import Backbone
from kcv.native.logs import LazyCallbackList
from kcv.native.model import NativeModel, native_target
from kcv.tracking import Tracker
from kcv.training.callbacks import BestModel, EpochClock, FiniteLoss, HistoryFile, Report, Track, higher_is_better
from kcv.training.features import FeatureBatches, FeatureStore
from kcv.training.optimizer import build_optimizer
from kcv.training.stages import Stage, learns_batch_norm, plan

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batches:
    """What `fit` is fed with.

    Attributes:
        train: shuffled, augmented, with smoothed labels.
        val: in order, as they are.
    """

    train: TrainingBatches
    val: InferenceBatches


@contextmanager
def open_batches(config: Config, dataset: Dataset, device: str) -> Iterator[Batches]:
    """Gives the training and validation batches, and ends their worker processes when the block ends.

    Raises:
        ConfigError: an augmentation does not fit the size of the pictures.
    """
    classes, workers = len(dataset.class_names), config.data.workers
    train = TrainingBatches(
        dataset.train,
        num_classes=classes,
        batch_size=config.data.batch_size,
        augment=config.augment,
        label_smoothing=config.optim.label_smoothing,
        seed=config.seed,
        device=device,
        workers=workers,
    )
    val = InferenceBatches(
        dataset.val, num_classes=classes, batch_size=inference.BATCH_SIZE, device=device, workers=workers
    )
    try:
        yield Batches(train, val)
    finally:
        train.close()
        val.close()


@dataclass(frozen=True)
class Fitted:
    """What `fit` came to.

    Attributes:
        best_epoch: the epoch (from 1) whose weights the model now has.
        rows: those of `history.csv`.
    """

    best_epoch: int
    rows: list[dict[str, float]]


def fit(
    model: keras.Model,
    batches: Batches,
    config: Config,
    *,
    history: Path,
    tracker: Tracker,
    save: Callable[[int], object],
    identity: Sequence[str],
) -> Fitted:
    """Trains a model, stage by stage, and leaves the weights of its best epoch in it.

    Args:
        model: uncompiled; it stays so.
        batches: what to train on and what to choose the epoch by.
        config: stages, optimizer, schedule, epochs, monitor, patience and moving average.
        history: the CSV file that gets a row an epoch.
        tracker: gets the same figures.
        save: called with the epoch (from 1) whenever the model's weights are the best so far.
        identity: of the pictures and the network, see `kcv.training.features.FeatureStore`.

    Raises:
        KcvError: the loss is no longer a number.
    """
    backbone = Backbone.of(model)
    best = BestModel(model, config.train.monitor, save)
    rows = HistoryFile(history)
    report = Report(len(batches.train.pictures), len(batches.train), config.train.epochs)
    try:
        for stage in plan(config):
            core = model
            train: TrainingBatches | FeatureBatches = batches.train
            val: InferenceBatches | FeatureBatches = batches.val
            if stage.frozen:
                backbone.freeze()
                device, epochs = inference.model_device(model).type, stage.end - stage.first
                store = FeatureStore(backbone.features(), config, identity, device, epochs)
                core, train, val = backbone.head(), store.training(batches.train), store.validation(batches.val)
            else:
                backbone.unfreeze(batch_norm=learns_batch_norm(config))
            describe(model)
            _fit_stage(core, train, val, config, stage, backbone, [best, rows, Track(tracker), report])
    finally:
        report.close()
    best.restore()
    return Fitted(best.best_epoch, rows.rows)


def _fit_stage(
    core: keras.Model,
    train: TrainingBatches | FeatureBatches,
    val: InferenceBatches | FeatureBatches,
    config: Config,
    stage: Stage,
    backbone: Backbone,
    reporting: Sequence[keras.callbacks.Callback],
) -> None:
    # The compiled twin shares layers and variables; the model itself stays free of optimizer and metrics, so that its
    # file opens without kcv.
    twin = NativeModel(
        core,
        target=native_target(inference.model_device(core).type),
        compile_on_gpu=config.train.compile and not stage.frozen,  # a head alone is too small to gain by it
    )
    twin.compile(
        optimizer=build_optimizer(
            stage.schedule(config.optim),
            steps_per_epoch=len(train),
            epochs=stage.end - stage.first,
            ema=config.train.ema,
            depths=backbone.depths(),
        ),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
        jit_compile=False,
    )
    twin.fit(
        train.loader(),
        validation_data=val.loader(),
        epochs=stage.end,
        initial_epoch=stage.first,
        callbacks=LazyCallbackList(
            _callbacks(config, train, reporting, may_stop=stage.last),
            model=twin,
            epochs=stage.end,
            steps=len(train),
        ),
        shuffle=False,  # the batches shuffle themselves; Keras warns of the default
        verbose=0,
    )


def _callbacks(
    config: Config,
    train: TrainingBatches | FeatureBatches,
    reporting: Sequence[keras.callbacks.Callback],
    *,
    may_stop: bool,
) -> list[keras.callbacks.Callback]:
    """Returns the callbacks in the order of who needs whom: the clock adds what the reporting ones read."""
    callbacks: list[keras.callbacks.Callback] = [EpochClock(train), FiniteLoss()]
    if config.train.ema is not None:
        # Before the reporting ones: the best model is one of averaged weights.
        callbacks.append(keras.callbacks.SwapEMAWeights(swap_on_epoch=True))
    callbacks += reporting
    if config.train.patience is not None and may_stop:
        mode = "max" if higher_is_better(config.train.monitor) else "min"
        callbacks.append(keras.callbacks.EarlyStopping(config.train.monitor, patience=config.train.patience, mode=mode))
    return callbacks


def describe(model: keras.Model) -> None:
    """Logs how many parameters a model has, and how many of them are trained."""
    total, trained = parameters(model)
    share = "" if trained == total else f", {trained:,} of them trained"
    _log.info("model      %s, %s parameters%s", model.name, f"{total:,}", share)


def parameters(model: keras.Model) -> tuple[int, int]:
    """Returns the number of a model's parameters, and of those that are trained."""
    return int(model.count_params()), sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
