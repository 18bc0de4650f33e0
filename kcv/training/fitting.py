"""Keras' `fit` with everything around it: batches, optimizer, loss and callbacks, from the configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import keras

from kcv import inference
from kcv.config import Config
from kcv.data.batches import InferenceBatches, TrainingBatches
from kcv.data.dataset import Dataset
from kcv.native.logs import LazyCallbackList
from kcv.native.model import NativeModel, native_target
from kcv.tracking import Tracker
from kcv.training.callbacks import BestModel, EpochClock, FiniteLoss, HistoryFile, Report, Track, higher_is_better
from kcv.training.optimizer import build_optimizer


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
) -> Fitted:
    """Trains a model and leaves the weights of its best epoch in it.

    Args:
        model: uncompiled; it stays so.
        batches: what to train on and what to choose the epoch by.
        config: optimizer, schedule, epochs, monitor, patience and moving average.
        history: the CSV file that gets a row an epoch.
        tracker: gets the same figures.
        save: called with the epoch (from 1) whenever the model's weights are the best so far.

    Raises:
        KcvError: the loss is no longer a number.
    """
    # The compiled twin shares layers and variables; the model itself stays free of optimizer and metrics, so that its
    # file opens without kcv.
    twin = NativeModel(
        model, target=native_target(inference.model_device(model).type), compile_on_gpu=config.train.compile
    )
    twin.compile(
        optimizer=build_optimizer(
            config.optim, steps_per_epoch=len(batches.train), epochs=config.train.epochs, ema=config.train.ema
        ),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
        jit_compile=False,
    )
    best = BestModel(model, config.train.monitor, save)
    rows = HistoryFile(history)
    report = Report(len(batches.train.pictures), len(batches.train), config.train.epochs)
    try:
        twin.fit(
            batches.train.loader(),
            validation_data=batches.val.loader(),
            epochs=config.train.epochs,
            callbacks=LazyCallbackList(
                _callbacks(config, batches, best, rows, Track(tracker), report),
                model=twin,
                epochs=config.train.epochs,
                steps=len(batches.train),
            ),
            shuffle=False,  # the batches shuffle themselves; Keras warns of the default
            verbose=0,
        )
    finally:
        report.close()
    best.restore()
    return Fitted(best.best_epoch, rows.rows)


def _callbacks(
    config: Config, batches: Batches, *reporting: keras.callbacks.Callback
) -> list[keras.callbacks.Callback]:
    """Returns the callbacks in the order of who needs whom: the clock adds what the reporting ones read."""
    callbacks: list[keras.callbacks.Callback] = [EpochClock(batches.train), FiniteLoss()]
    if config.train.ema is not None:
        # Before the reporting ones: the best model is one of averaged weights.
        callbacks.append(keras.callbacks.SwapEMAWeights(swap_on_epoch=True))
    callbacks += reporting
    if config.train.patience is not None:
        mode = "max" if higher_is_better(config.train.monitor) else "min"
        callbacks.append(keras.callbacks.EarlyStopping(config.train.monitor, patience=config.train.patience, mode=mode))
    return callbacks
