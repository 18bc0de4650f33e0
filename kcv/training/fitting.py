"""Keras' `fit` with everything around it: batches, optimizer, loss and callbacks, from the configuration."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import keras
import numpy as np

from kcv.config import Config
from kcv.data.batches import InferenceBatches, TrainingBatches
from kcv.data.dataset import Dataset, Images
from kcv.distributed.group import ALONE, Group
from kcv.inference import outputs
from kcv.models.backbone import Backbone
from kcv.tracking import Tracker
from kcv.training.callbacks.best import BestModel
from kcv.training.callbacks.csv_logger import HistoryFile
from kcv.training.callbacks.progress_logger import Report
from kcv.training.callbacks.terminate_on_nan import Diverged
from kcv.training.callbacks.tracker import Track
from kcv.training.resume.state import State
from kcv.training.resume.stop_request import Stopping
from kcv.training.resume.writer import Writer
from kcv.training.stage_fit import StageFit
from kcv.training.stages import plan

_log = logging.getLogger(__name__)

_MOST_ROLLBACKS: Final = 3
_SLOWER: Final = 0.5  # the learning rate after a rollback, over the one before


@dataclass(frozen=True)
class Batches:
    """What `fit` is fed with.

    Attributes:
        train: shuffled, augmented, with smoothed labels.
        val: in order, as they are; of several processes each has its part.
        group: the processes that share the work.
    """

    train: TrainingBatches
    val: InferenceBatches
    group: Group = ALONE


@contextmanager
def open_batches(config: Config, dataset: Dataset, device: str, group: Group = ALONE) -> Iterator[Batches]:
    """Gives the training and validation batches, and ends their worker processes when the block ends.

    Raises:
        ConfigError: an augmentation does not fit the size of the images.
        DataError: a batch has fewer images than there are processes.
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
        share=group.share,
        shuffle_buffer=config.data.shuffle_buffer_mb * 2**20,
    )
    size = outputs.batch_size_for(dataset.val.size)
    val = InferenceBatches(
        _own(dataset.val, group), num_classes=classes, batch_size=size, device=device, workers=workers
    )
    try:
        yield Batches(train, val, group)
    finally:
        train.close()
        val.close()


def _own(images: Images, group: Group) -> Images:
    """Returns this process's part of a split; all of it where there is not an image for each process."""
    begin, end = group.share.bounds(len(images))
    if not group.several or len(images) < group.size:
        return images
    pixels = None if images.pixels is None else images.pixels[begin:end]
    return replace(images, samples=images.samples.take(np.arange(begin, end)), pixels=pixels)


@dataclass(frozen=True)
class Fitted:
    """What `fit` came to.

    Attributes:
        best_epoch: the epoch (from 1) whose weights the model now has.
        rows: those of `history.csv`.
    """

    best_epoch: int
    rows: list[dict[str, float]]


@dataclass(frozen=True)
class Watch:
    """What looks after a training while it runs.

    Attributes:
        history: the CSV file that gets a row an epoch; None for none.
        tracker: gets the same figures.
        save: called with the epoch (from 1) whenever the model's weights are the best so far.
        writer: writes checkpoints; None for none. Only the first of several processes has one.
        stopping: whether somebody wants the training to stop.
    """

    history: Path | None
    tracker: Tracker
    save: Callable[[int], object]
    writer: Writer | None = None
    stopping: Stopping = field(default_factory=Stopping)


def fit(
    model: keras.Model,
    batches: Batches,
    config: Config,
    watch: Watch,
    *,
    identity: Sequence[str],
    begin: State | None = None,
) -> Fitted:
    """Trains a model, stage by stage, and leaves the weights of its best epoch in it.

    Args:
        model: uncompiled; it stays so.
        batches: what to train on and what to choose the epoch by.
        config: stages, optimizer, schedule, epochs, monitor, patience and moving average.
        watch: what looks after the training.
        identity: of the images and the network, see `kcv.training.features.FeatureStore`.
        begin: the state to go on from; None to begin.

    Raises:
        Diverged: the loss is no longer a number.
        KeyboardInterrupt: somebody wanted the training to stop; there is a checkpoint of the last step.
    """
    best = BestModel(model, config.train.monitor, watch.save)
    rows = HistoryFile(watch.history)
    report = Report(len(batches.train.images), len(batches.train), config.train.epochs)
    reporting = [best, rows, Track(watch.tracker), report]
    fitting = StageFit(Backbone.of(model), batches, config, watch, reporting, identity)
    stages = [stage for stage in plan(config) if begin is None or begin.epoch < stage.end]
    divergences = 0
    try:
        with watch.stopping.between_steps():
            while stages:
                if begin is not None:
                    best.weights = begin.best
                try:
                    fitting.run(stages[0], begin)
                except Diverged as error:
                    divergences += 1
                    if fitting.good is None or divergences > _MOST_ROLLBACKS:
                        raise
                    begin = fitting.good.slower(_SLOWER)
                    rate = begin.plain["rate"]
                    _log.warning("%s; back to epoch %d, at %g of the rate", error, begin.epoch + 1, rate)
                else:
                    begin = None
                    stages.pop(0)
    finally:
        report.close()
    best.restore()
    return Fitted(best.best_epoch, rows.rows)
