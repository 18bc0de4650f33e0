"""From a fitted model to the files of its run."""

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
from kcv.common.text import plain
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

_MOST_NAME = 100  # characters of a model's


@dataclass
class Result:
    """Turns a model into the files of its run; of several processes the first writes them, and all measure."""

    config: Config
    dataset: Dataset
    model: keras.Model
    variant: str | None
    policy: str
    folder: RunFolder
    group: Group = SINGLE_PROCESS
    own_model: bool = False  # the caller's, not one that the configuration names
    counts: tuple[int, int] = (0, 0)  # parameters, and those that were trained, of the best epoch
    calibration: Calibration | None = None
    _exact: keras.Model | None = None

    def save(self, epoch: int, figures: dict[str, Any] | None = None) -> None:
        """Writes the model file with the weights as they are, of the given epoch (from 1)."""
        if figures is None:  # a later stage may train other parameters than that of the best epoch did
            self.counts = parameters(self.model)
        if not self.group.is_main_process:
            return
        total, trained = self.counts
        info = artifact.ArtifactInfo(
            model_name=self._model_name(),
            variant=self.variant,
            class_names=self.dataset.class_names,
            image_size=self.dataset.image_size,
            resize=self.config.data.resize,
            precision=self.policy,
            parameters={"total": total, "trainable": trained},
            data_name=self.dataset.name,
            data_fingerprint=self.dataset.fingerprint,
            config=config_without_credentials(self.config).to_dict(),
            metrics=figures,
            calibration=self.calibration,
            best_epoch=epoch,
            versions=environment.versions(),
        )
        artifact.save(self.folder.model, self.model, info)

    def _model_name(self) -> str:
        """Returns what the files call the architecture: of the caller's own, its name, and that it is one."""
        return f"{plain(self.model.name)[:_MOST_NAME]} (own)" if self.own_model else self.config.model.name

    def recall(self) -> None:
        """Reads from the model file how many parameters the best epoch had, where a run goes on."""
        if self.group.is_main_process and os.path.isfile(self.folder.model):
            found = artifact.read_info(self.folder.model).parameters
            self.counts = (found.get("total", 0), found.get("trainable", 0))

    def finish(self, fitted: Fitted) -> dict[str, Any]:
        """Measures the model once, on test or, where there is no test split, on val; writes all that is left."""
        split, images = ("test", self.dataset.test) if self.dataset.test else ("val", self.dataset.val)
        names = self.dataset.class_names
        self.calibration = self._calibrate()
        logits = self._logits(images)
        probabilities = self.calibration.probabilities(logits)
        figures = metrics.summarize(images.labels, probabilities, names, split, threshold=self.calibration.threshold)
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
        """Fits temperature and threshold to the validation split, as the configuration asks."""
        val, wanted = self.dataset.val, self.config.train.abstain_precision
        if not self.config.train.calibrate and wanted is None:
            return Calibration()
        logits = self._logits(val)
        found = temperature.fit(logits, val.labels, temperature=None if self.config.train.calibrate else 1.0)
        if wanted is not None:
            try:
                found = found.with_threshold(logits, val.labels, wanted, self.dataset.class_names)
            except DataError as error:  # a finished training is not thrown away for it
                _log.warning("%s The model always names a class.", error)
        _log.info("calibrated %s", found.describe())
        return found

    def _logits(self, images: Images) -> NDArray[np.float32]:
        """Returns logits, float32 [n, classes], in the precision in which the model's file will answer.

        Raises:
            Diverged: some are no numbers, of images that the validation while training did not have.
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
