"""Fits temperature, threshold and prediction sets to a trained model and writes them into its file."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from kcv import artifact
from kcv.distributed.group import SINGLE_PROCESS, Group
from kcv.inference import splits
from kcv.inference.keras_model import LoadedModel
from kcv.metrics import temperature
from kcv.metrics.conformal import require_images
from kcv.metrics.temperature import Calibration, TtaCalibrations

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """What a calibration is for, beside the temperature.

    Attributes:
        precision: the fraction (0-1] of the answers that must be right; None for no threshold.
        coverage: the fraction (0-1) of prediction sets that must hold the right class; None for no sets.
    """

    precision: float | None = None
    coverage: float | None = None

    @classmethod
    def of(cls, calibration: Calibration) -> Wanted:
        """Returns what a calibration was fitted for."""
        sets = calibration.sets
        return cls(calibration.wanted_precision, sets.wanted_coverage if sets is not None else None)


def recalibrate(
    model: LoadedModel,
    wanted: Wanted,
    source: str | None = None,
    *,
    batch_size: int | None = None,
    group: Group = SINGLE_PROCESS,
) -> LoadedModel:
    """Fits a model's calibration to the validation split of its training data and writes it into its file.

    Args:
        model: a model that kcv trained; its weights do not change. With test-time augmentation the file gets a
            calibration for this beside the plain one.
        wanted: the requested precision and coverage.
        source: the training data, if its URL must be named; see `kcv.inference.splits.data_config`.
        batch_size: images per batch; by default chosen by the image size.
        group: the processes that share the images; the main process writes.

    Returns:
        The model with its new calibration.

    Raises:
        DataError: the validation images cannot be read, are too few for the requested coverage, or no threshold
            reaches the requested precision; the file is not changed.
        OutputError: the file cannot be written.
    """
    fitted = calibrated(model, wanted, source, batch_size=batch_size, group=group)
    if group.is_main_process:
        artifact.describe_again(model.path, fitted.info)
    return fitted


def calibrated(
    model: LoadedModel,
    wanted: Wanted,
    source: str | None = None,
    *,
    batch_size: int | None = None,
    group: Group = SINGLE_PROCESS,
) -> LoadedModel:
    """Returns a model with a calibration like `recalibrate`, without writing it into its file."""
    images = splits.load_split(model, "val", source)
    if wanted.coverage is not None:
        require_images(wanted.coverage, len(images))
    logits = model.logits(images, batch_size=batch_size, group=group)
    found = temperature.fit(logits, images.labels)
    if wanted.precision is not None:
        found = found.with_threshold(logits, images.labels, wanted.precision, model.class_names)
    if wanted.coverage is not None:
        found = found.with_sets(logits, images.labels, wanted.coverage)
    _log.info("calibrated %s", found.describe())
    if model.tta is None:
        return replace(model, info=model.info.model_copy(update={"calibration": found}))
    known = TtaCalibrations({**model.info.tta.root, model.tta.name: found})
    return replace(model, info=model.info.model_copy(update={"tta": known}))
