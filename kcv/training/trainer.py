"""Training: configuration -> data -> model -> fit -> artifact."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from kcv import artifact, data, inference, metrics, models, plots
from kcv.config import Config
from kcv.data.batches import InferenceBatches, TrainingBatches
from kcv.data.dataset import Dataset, Pictures, Pixels
from kcv.files import write_text
from kcv.native.device import describe_device, device_scope, resolve_device
from kcv.native.precision import precision_scope, resolve_precision
from kcv.tracking import Status, Tracker, open_tracker
from kcv.training import environment
from kcv.training.callbacks import BestModel, EpochClock, FiniteLoss, HistoryFile, Report, Track
from kcv.training.optimizer import build_optimizer
from kcv.training.run import Run, RunFolder

_log = logging.getLogger(__name__)

_FITTING_SAMPLE = 5_000
"""Training pictures that normalisation and whitening are fitted to; their moments do not change with more."""


def train(config: Config) -> Run:
    """Trains a model and leaves a run folder.

    Args:
        config: what to train on what, and how; see `kcv.Config`.

    Returns:
        The finished run: its folder, model file and metrics.

    Raises:
        KcvError: when the data, device, tracking store or output folder cannot be used, or training diverges.
    """
    began = time.perf_counter()
    device = resolve_device(config.device)
    policy, reason = resolve_precision(config.precision, device)
    dataset = data.load(config.data)
    _log.info("data       %s", _describe_data(dataset))
    _log.info("device     %s (%s), %s: %s", device, describe_device(device), policy, reason)
    tracker = open_tracker(config.tracking)
    folder = RunFolder.create(config)
    surroundings = environment.describe(
        device=device, precision=policy, seed=config.seed, data_fingerprint=dataset.fingerprint
    )
    write_text(folder.config, config.to_yaml())
    folder.write_json(folder.environment, surroundings)
    _log.info("run        %s", folder.path)

    tracker.start(folder.path.name, config.flatten(), surroundings)
    status: Status = "FAILED"
    try:
        keras.utils.set_random_seed(config.seed)
        with device_scope(device), precision_scope(policy):
            model = models.build(config.model, dataset.image_size, len(dataset.class_names), _sample(dataset.train))
            _log.info("model      %s, %s parameters", config.model.name, f"{model.count_params():,}")
            job = _Job(config, dataset, model, policy, device, folder, tracker)
            best, rows = job.fit()
            figures = job.measure()
        folder.write_json(folder.metrics, figures)
        job.save(best.best_epoch, figures)
        plots.learning_curves(rows, folder.curves)
        tracker.log_metrics(_scalars(figures), step=best.best_epoch)
        tracker.log_artifacts(folder.path)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        tracker.finish(status)
    return Run(
        directory=folder.path,
        model_path=folder.model,
        metrics=figures,
        history=rows,
        best_epoch=best.best_epoch,
        seconds=time.perf_counter() - began,
        tracking=tracker.location,
        environment=surroundings,
    )


@dataclass(frozen=True)
class _Job:
    """Everything that is fixed before the first step."""

    config: Config
    dataset: Dataset
    model: keras.Model
    policy: str
    device: str
    folder: RunFolder
    tracker: Tracker

    def fit(self) -> tuple[BestModel, list[dict[str, float]]]:
        """Runs `fit` and leaves the best weights in the model."""
        config, classes = self.config, len(self.dataset.class_names)
        batches = TrainingBatches(
            self.dataset.train,
            num_classes=classes,
            batch_size=config.data.batch_size,
            augment=config.augment,
            label_smoothing=config.optim.label_smoothing,
            seed=config.seed,
            device=self.device,
            workers=config.data.workers,
        )
        validation = InferenceBatches(
            self.dataset.val,
            num_classes=classes,
            batch_size=inference.BATCH_SIZE,
            device=self.device,
            workers=config.data.workers,
        )
        # The compiled twin shares layers and variables; the model itself stays free of optimizer and metrics, so that
        # its file opens without kcv.
        trainee = keras.Model(self.model.inputs, self.model.outputs)
        trainee.compile(
            optimizer=build_optimizer(
                config.optim, steps_per_epoch=len(batches), epochs=config.train.epochs, ema=config.train.ema
            ),
            loss=keras.losses.CategoricalCrossentropy(from_logits=True),
            metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
            jit_compile=False,
        )
        best = BestModel(self.model, config.train.monitor, self.save)
        history = HistoryFile(self.folder.history)
        callbacks: list[keras.callbacks.Callback] = [EpochClock(batches, len(self.dataset.train)), FiniteLoss()]
        if config.train.ema is not None:
            callbacks.append(keras.callbacks.SwapEMAWeights(swap_on_epoch=True))
        report = Report(len(self.dataset.train), len(batches), config.train.epochs)
        callbacks += [best, history, Track(self.tracker), report]
        if config.train.patience is not None:
            mode = "max" if config.train.monitor.endswith("accuracy") else "min"
            callbacks.append(
                keras.callbacks.EarlyStopping(config.train.monitor, patience=config.train.patience, mode=mode)
            )
        try:
            trainee.fit(
                batches.loader(),
                validation_data=validation.loader(),
                epochs=config.train.epochs,
                callbacks=callbacks,
                shuffle=False,  # the batches shuffle themselves; Keras warns of the default
                verbose=0,
            )
        finally:
            report.close()
            batches.close()
            validation.close()
        best.restore()
        return best, history.rows

    def measure(self) -> dict[str, Any]:
        """Measures the model once on the test split, or on the validation split where there is none."""
        split, pictures = ("test", self.dataset.test) if self.dataset.test else ("val", self.dataset.val)
        names = self.dataset.class_names
        probabilities = inference.softmax(inference.logits(self.model, pictures, workers=self.config.data.workers))
        matrix = metrics.confusion_matrix(pictures.labels, probabilities.argmax(axis=1), len(names))
        plots.confusion_matrix(matrix, names, self.folder.confusion)
        return metrics.summarize(pictures.labels, probabilities, names, split)

    def save(self, epoch: int, figures: dict[str, Any] | None = None) -> None:
        """Writes the model file with the weights as they are."""
        artifact.save(self.folder.model, self.model, self.describe(epoch, figures))

    def describe(self, epoch: int, figures: dict[str, Any] | None) -> artifact.ArtifactInfo:
        """Returns what the model file says of itself."""
        trainable = sum(int(np.prod(variable.shape)) for variable in self.model.trainable_variables)
        return artifact.ArtifactInfo(
            model_name=self.config.model.name,
            class_names=self.dataset.class_names,
            image_size=self.dataset.image_size,
            resize=self.config.data.resize,
            precision=self.policy,
            parameters={"total": int(self.model.count_params()), "trainable": trainable},
            data_name=self.dataset.name,
            data_fingerprint=self.dataset.fingerprint,
            config=self.config.to_dict(),
            metrics=figures,
            best_epoch=epoch,
            versions=environment.versions(),
        )


def _sample(pictures: Pictures) -> Pixels:
    """Returns training pictures spread evenly over the split, uint8 [n, size, size, 3]."""
    indices = np.linspace(0, len(pictures) - 1, min(len(pictures), _FITTING_SAMPLE)).astype(np.int64)
    if pictures.pixels is not None:
        return pictures.pixels[indices]
    return np.stack([pictures.read(int(index)) for index in indices])


def _describe_data(dataset: Dataset) -> str:
    counts = [f"{len(dataset.train):,} train", f"{len(dataset.val):,} val"]
    counts.append(f"{len(dataset.test):,} test" if dataset.test else "no test split")
    place = "in memory" if dataset.in_memory else "streamed from disk"
    size = dataset.image_size
    return f"{dataset.name}: {', '.join(counts)} pictures of {len(dataset.class_names)} classes at {size} px, {place}"


def _scalars(figures: dict[str, Any]) -> dict[str, float]:
    """Returns the plain numbers among the metrics, named for their split."""
    return {
        f"{figures['split']}_{key}": float(value)
        for key, value in figures.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
