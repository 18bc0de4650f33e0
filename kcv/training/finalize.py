"""Evaluates a fitted model and writes the files of its run."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from kcv import artifact, metrics
from kcv.common.files import write_json
from kcv.common.text import printable, shortened
from kcv.config import Config
from kcv.data.dataset import Dataset, Images
from kcv.distributed.group import SINGLE_PROCESS, Group
from kcv.errors import DataError
from kcv.inference import outputs
from kcv.metrics import temperature
from kcv.metrics.temperature import Calibration
from kcv.native.precision import in_float32
from kcv.reporting.evaluation_files import write_files
from kcv.tracking import config_without_credentials
from kcv.training import environment
from kcv.training.callbacks.control import Diverged
from kcv.training.loop import Fitted, parameters
from kcv.training.run_folder import RunFolder

_log = logging.getLogger(__name__)

_MOST_NAME = 100  # characters of a model name
_MOST_DATA_NAME = 900  # characters of the path of the data; a description has room for 1,000


@dataclass
class Result:
    """Writes the files of a run's model; with several processes, all evaluate and the main process writes."""

    config: Config
    dataset: Dataset
    model: keras.Model
    variant: str | None
    policy: str
    folder: RunFolder
    group: Group = SINGLE_PROCESS
    own_model: bool = False  # the model is the user's own, and not one of kcv's networks
    source: artifact.ModelSource | None = None  # the function that built it, if there is one
    counts: tuple[int, int] = (0, 0)  # total and trainable parameters at the best epoch
    calibration: Calibration | None = None
    _exact: keras.Model | None = None

    def save(self, epoch: int, figures: dict[str, Any] | None = None) -> None:
        """Writes the model file with the current weights, which are those of the given epoch (from 1)."""
        if figures is None:  # a later stage may train other parameters than the stage of the best epoch
            self.counts = parameters(self.model)
        if not self.group.is_main_process:
            return
        total, trained = self.counts
        info = artifact.ArtifactInfo(
            model_name=self._model_name(),
            model_source=self.source,
            variant=self.variant,
            class_names=self.dataset.class_names,
            image_size=self.dataset.image_size,
            resize=self.config.data.resize,
            precision=self.policy,
            parameters={"total": total, "trainable": trained},
            data_name=shortened(printable(self.dataset.name), _MOST_DATA_NAME),
            data_fingerprint=self.dataset.fingerprint,
            config=config_without_credentials(self.config).to_dict(),
            metrics=figures,
            calibration=self.calibration,
            best_epoch=epoch,
            versions=environment.versions(),
        )
        artifact.save(self.folder.model, self.model, info)

    def _model_name(self) -> str:
        """Returns the architecture name for the files: for the user's own model, the model's name and `(own)`."""
        return f"{printable(self.model.name)[:_MOST_NAME]} (own)" if self.own_model else self.config.model.name

    def recall(self) -> None:
        """Reads the parameter counts of the best epoch from the model file when a run is resumed."""
        if self.group.is_main_process and os.path.isfile(self.folder.model):
            found = artifact.read_info(self.folder.model).parameters
            self.counts = (found.get("total", 0), found.get("trainable", 0))

    def finish(self, fitted: Fitted) -> dict[str, Any]:
        """Evaluates the model once, on the test split if there is one, else on val; writes the remaining files."""
        split, images = ("test", self.dataset.test) if self.dataset.test else ("val", self.dataset.val)
        names = self.dataset.class_names
        self.calibration = self._calibrate()
        logits = self._logits(images)
        probabilities = self.calibration.probabilities(logits)
        threshold, sets = self.calibration.threshold, self.calibration.sets
        figures = metrics.summarize(images.labels, probabilities, names, split, threshold=threshold, sets=sets)
        if not self.group.is_main_process:
            return figures
        write_json(self.folder.metrics, figures)
        self.save(fitted.best_epoch, figures)
        write_files(
            self.folder.evaluation,
            figures,
            self.model,
            images,
            probabilities,
            self.folder.path,
            draw=self.config.train.plots,
        )
        return figures

    def _calibrate(self) -> Calibration:
        """Fits temperature, abstention threshold and prediction sets on the validation split, as configured."""
        val, wanted = self.dataset.val, self.config.train.abstain_precision
        coverage = self.config.train.coverage
        if not self.config.train.calibrate and wanted is None and coverage is None:
            return Calibration()
        logits = self._logits(val)
        found = temperature.fit(logits, val.labels, temperature=None if self.config.train.calibrate else 1.0)
        if wanted is not None:
            try:
                found = found.with_threshold(logits, val.labels, wanted, self.dataset.class_names)
            except DataError as error:  # a finished training run is not discarded for this
                _log.warning("%s The model always names a class.", error)
        if coverage is not None:
            found = found.with_sets(logits, val.labels, coverage)
        _log.info("calibrated %s", found.describe())
        return found

    def _logits(self, images: Images) -> NDArray[np.float32]:
        """Returns logits, float32 [n, classes], in the precision used by the saved model.

        Raises:
            Diverged: some logits are not finite, for images that were not in the validation split.
        """
        if self._exact is None:
            self._exact = in_float32(self.model)
        found = outputs.logits(self._exact, images, workers=self.config.data.workers, group=self.group)
        wrong = int((~np.isfinite(found).all(axis=1)).sum())
        if wrong:
            raise Diverged(
                f"the model's answers to {wrong:,} of {len(found):,} images are no numbers: lower optim.lr, or use "
                "precision=float32"
            )
        return found
