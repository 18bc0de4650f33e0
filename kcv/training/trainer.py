"""Training: configuration -> data -> model -> fit -> artifact."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import keras
import numpy as np

from kcv import artifact, calibration, data, inference, metrics, models
from kcv.calibration import Calibration
from kcv.config import Config
from kcv.data.dataset import Dataset, Pictures, Pixels
from kcv.errors import DataError, KcvError
from kcv.evaluation.files import write_files
from kcv.files import write_json, write_text
from kcv.models.weights.pretrained import Pretrained
from kcv.native.device import describe_device, device_scope, resolve_device
from kcv.native.memory import keep_freed_memory
from kcv.native.precision import precision_scope, resolve_precision
from kcv.reporting import report
from kcv.tracking import Status, Tracker, open_tracker, without_credentials
from kcv.training import environment
from kcv.training.fitting import Fitted, fit, open_batches, parameters
from kcv.training.run import Run, RunFolder
from kcv.training.stages import plan

_log = logging.getLogger(__name__)

_MOST_FITTING_PICTURES = 5_000
_MOST_FITTING_PIXELS = 20_000_000
"""How much of the training split normalisation and whitening are fitted to; their moments do not change with more."""


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
    if device == "cpu":
        keep_freed_memory()
    learns = config.model.mode == "fine_tuning"
    depthwise = learns and models.entry_of(config.model.name).depthwise
    policy, reason = resolve_precision(config.precision, device, trains_depthwise=depthwise)
    pretrained = models.load_weights(config.model)
    dataset = data.load(config.data)
    _log.info("data       %s", _describe_data(dataset))
    _log.info("device     %s (%s), %s: %s", device, describe_device(device), policy, reason)
    with open_batches(config, dataset, device) as batches, device_scope(device), precision_scope(policy):
        model = _build(config, dataset, pretrained)
        variant = models.variant_of(config.model, pretrained)
        # From here on there is a run: all that a wrong configuration can break has been tried.
        surroundings = environment.describe(
            device=device,
            precision=policy,
            seed=config.seed,
            data_fingerprint=dataset.fingerprint,
            weights=pretrained.source if pretrained else None,
        )
        folder, tracker = _open_run(config, surroundings)
        status: Status = "FAILED"
        try:
            result = _Result(config, dataset, model, variant, policy, folder)
            fitted = fit(
                model,
                batches,
                config,
                history=folder.history,
                tracker=tracker,
                save=result.save,
                identity=_identity(config, dataset, variant, policy, device),
            )
            figures = result.finish(fitted)
            report(folder.path)
            tracker.log_metrics(_scalars(figures), step=fitted.best_epoch)
            tracker.log_artifacts(folder.path)
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            _log.info("interrupted; what there is, the best model among it, stays in %s", folder.path)
            raise
        finally:
            tracker.finish(status)
    return Run(
        directory=folder.path,
        model_path=folder.model,
        metrics=figures,
        history=fitted.rows,
        best_epoch=fitted.best_epoch,
        seconds=time.perf_counter() - began,
        tracking=tracker.location,
        environment=surroundings,
    )


def _build(config: Config, dataset: Dataset, pretrained: Pretrained | None) -> keras.Model:
    keras.utils.set_random_seed(config.seed)
    model = models.build(
        config.model,
        dataset.image_size,
        len(dataset.class_names),
        _sample(dataset.train),
        pretrained,
        class_names=dataset.class_names,
    )
    if config.model.name != "custom_cnn" or pretrained or plan(config)[0].frozen:
        _log.info("weights    %s", pretrained.source if pretrained else "random")
    return model


def _open_run(config: Config, surroundings: dict[str, Any]) -> tuple[RunFolder, Tracker]:
    """Makes the run's folder and its record; leaves no folder where there can be no record."""
    tracker = open_tracker(config.tracking)
    folder = RunFolder.create(config)
    try:
        tracker.start(folder.path.name, _shown(config).flatten(), surroundings)
    except KcvError:
        folder.discard()
        raise
    write_text(folder.config, _shown(config).to_yaml())
    write_json(folder.environment, surroundings)
    _log.info("run        %s", folder.path)
    return folder, tracker


@dataclass
class _Result:
    """Turns a model into the files of its run."""

    config: Config
    dataset: Dataset
    model: keras.Model
    variant: str | None
    policy: str
    folder: RunFolder
    counts: tuple[int, int] = (0, 0)  # parameters, and those that were trained, of the best epoch
    calibration: Calibration | None = None

    def save(self, epoch: int, figures: dict[str, Any] | None = None) -> None:
        """Writes the model file with the weights as they are, of the given epoch (from 1)."""
        if figures is None:  # a later stage may train other parameters than that of the best epoch did
            self.counts = parameters(self.model)
        total, trained = self.counts
        info = artifact.ArtifactInfo(
            model_name=self.config.model.name,
            variant=self.variant,
            class_names=self.dataset.class_names,
            image_size=self.dataset.image_size,
            resize=self.config.data.resize,
            precision=self.policy,
            parameters={"total": total, "trainable": trained},
            data_name=self.dataset.name,
            data_fingerprint=self.dataset.fingerprint,
            config=_shown(self.config).to_dict(),
            metrics=figures,
            calibration=self.calibration,
            best_epoch=epoch,
            versions=environment.versions(),
        )
        artifact.save(self.folder.model, self.model, info)

    def finish(self, fitted: Fitted) -> dict[str, Any]:
        """Measures the model once, on test or, where there is no test split, on val; writes all that is left."""
        split, pictures = ("test", self.dataset.test) if self.dataset.test else ("val", self.dataset.val)
        names = self.dataset.class_names
        self.calibration = self._calibrate()
        logits = inference.logits(self.model, pictures, workers=self.config.data.workers)
        probabilities = self.calibration.probabilities(logits)
        figures = metrics.summarize(pictures.labels, probabilities, names, split, threshold=self.calibration.threshold)
        write_json(self.folder.metrics, figures)
        self.save(fitted.best_epoch, figures)
        write_files(self.folder.evaluation, figures, self.model, pictures, probabilities, self.folder.history)
        return figures

    def _calibrate(self) -> Calibration:
        """Fits temperature and threshold to the validation split, as the configuration asks."""
        val, wanted = self.dataset.val, self.config.train.abstain_precision
        if not self.config.train.calibrate and wanted is None:
            return Calibration()
        logits = inference.logits(self.model, val, workers=self.config.data.workers)
        found = calibration.fit(logits, val.labels, temperature=None if self.config.train.calibrate else 1.0)
        if wanted is not None:
            try:
                found = found.with_threshold(logits, val.labels, wanted, self.dataset.class_names)
            except DataError as error:  # a finished training is not thrown away for it
                _log.warning("%s The model always names a class.", error)
        _log.info("calibrated %s", found.describe())
        return found


def _shown(config: Config) -> Config:
    """Returns the configuration as it may be written down: without the credentials of a tracking uri."""
    if config.tracking.uri is None:
        return config
    uri = without_credentials(config.tracking.uri)
    return config.model_copy(update={"tracking": config.tracking.model_copy(update={"uri": uri})})


def _identity(config: Config, dataset: Dataset, variant: str | None, policy: str, device: str) -> tuple[str, ...]:
    """Returns what decides frozen features, beside the backbone and which pictures there are."""
    versions = environment.versions()
    computation = (policy, device, *(versions[name] for name in ("kcv", "torch", "keras")), version("pillow"))
    pixels = (dataset.fingerprint, dataset.image_size, dataset.resize)
    return tuple(map(str, (config.model.name, variant, *pixels, *computation)))


def _sample(pictures: Pictures) -> Pixels:
    """Returns training pictures spread evenly over the split, uint8 [n, size, size, 3]."""
    count = min(len(pictures), _MOST_FITTING_PICTURES, max(1, _MOST_FITTING_PIXELS // pictures.size**2))
    indices = np.linspace(0, len(pictures) - 1, count).astype(np.int64)
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
