"""Fits temperature and threshold to a trained model and writes them into its file."""

from __future__ import annotations

import logging
from dataclasses import replace

from kcv import artifact
from kcv.distributed.group import SINGLE_PROCESS, Group
from kcv.inference import splits
from kcv.inference.keras_model import LoadedModel
from kcv.metrics import temperature

_log = logging.getLogger(__name__)


def recalibrate(
    model: LoadedModel,
    abstain_precision: float | None,
    source: str | None = None,
    *,
    batch_size: int | None = None,
    group: Group = SINGLE_PROCESS,
) -> LoadedModel:
    """Fits a model's calibration to the validation split of its training data and writes it into its file.

    Args:
        model: a model that kcv trained; its weights do not change.
        abstain_precision: the fraction (0-1] of the answers that must be correct; None for no threshold.
        source: the training data, if its URL must be named; see `kcv.inference.splits.data_config`.
        batch_size: images per batch; by default chosen by the image size.
        group: the processes that share the images; the main process writes.

    Returns:
        The model with its new calibration.

    Raises:
        DataError: the validation images cannot be read, or no threshold reaches the requested precision; the file is
            not changed.
        OutputError: the file cannot be written.
    """
    images = splits.load_split(model, "val", source)
    logits = model.logits(images, batch_size=batch_size, group=group)
    found = temperature.fit(logits, images.labels)
    if abstain_precision is not None:
        found = found.with_threshold(logits, images.labels, abstain_precision, model.class_names)
    info = model.info.model_copy(update={"calibration": found})
    if group.is_main_process:
        artifact.describe_again(model.path, info)
    _log.info("calibrated %s", found.describe())
    return replace(model, info=info)
