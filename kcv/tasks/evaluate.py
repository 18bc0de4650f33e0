"""Measuring a model on a split: figures, tables and plots in a folder beside the model."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kcv import artifact, metrics
from kcv.common.progress import Progress
from kcv.common.redaction import data_without_credentials
from kcv.common.text import cut_to_bytes
from kcv.common.untrusted import inside
from kcv.distributed.connecting import connect
from kcv.errors import OutputError
from kcv.inference import opening, splits
from kcv.inference.keras_model import LoadedModel
from kcv.inference.recalibration import recalibrate
from kcv.reporting.evaluation_files import write_files
from kcv.saliency.trust import measure_explanations
from kcv.tasks.report import write_page

__all__ = ["Evaluation", "evaluate"]

_LONGEST_NAME = 100  # bytes of the data's name in that of the folder for its figures


@dataclass(frozen=True)
class Evaluation:
    """What a model came to on one split.

    Attributes:
        metrics: as in `metrics.json`; see `kcv.metrics.summarize`.
        directory: the folder with the files.
        labels: int64 [n], positions in the model's class names.
        probabilities: float64 [n, classes].
        explanations: as from `kcv.saliency.trust`; None where they were not measured.
    """

    metrics: dict[str, Any]
    directory: Path
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    explanations: dict[str, Any] | None = None


def evaluate(
    model: str | Path | LoadedModel,
    data: str | None = None,
    split: str = "test",
    output_dir: str | Path | None = None,
    *,
    batch_size: int | None = None,
    device: str = "auto",
    calibrate: bool = False,
    abstain_precision: float | None = None,
    explain: bool = False,
    plots: bool = True,
    progress: bool = False,
) -> Evaluation:
    """Measures a model and writes what was found.

    Figures of the test split of the training data equal those that training wrote, to the last digit, on the
    same machine. Under torchrun all processes call it, share the images, and return the same; the first one writes.

    Args:
        model: a model file, or a loaded model.
        data: `cifar10`, `digits` or a path; by default what the model was trained on. Classes are matched by name. If
            you began the run on this machine, they may have changed since, and a warning says so; else they must be
            named.
        split: `train`, `val` or `test`. Splits that training made are made again.
        output_dir: the folder for the files; by default `evaluation` beside the model for the test split of the
            training data, and `evaluation-<split>` or `evaluation-<data>-<split>` for others, so that none overwrites
            another.
        batch_size: images a batch; by default chosen by their size.
        device: where to run, if `model` is a file.
        calibrate: fit temperature (and, for `abstain_precision`, the threshold) to the validation split of the training
            data first, and write them into the model file.
        abstain_precision: the part of the answers (0-1] that is to be right; implies `calibrate`. None: no threshold.
        explain: measure how far the model's heat maps can be trusted, too: a minute or so.
        plots: whether to draw plots; without them there are the figures and the tables alone.
        progress: whether to show a progress bar on a terminal.

    Returns:
        The figures, and the folder with the files, see `kcv.reporting.evaluation_files`.

    Raises:
        ArtifactError: the model cannot be opened or run.
        DataError: the data cannot be read, lacks the split, or has classes that the model does not know; or no
            threshold gives the wanted precision.
        OutputError: the folder cannot be written to, or is a link beside the model.
    """
    with connect() as group:
        with group.in_turn():
            loaded = model if isinstance(model, LoadedModel) else opening.load(model, device=device)
            directory = Path(output_dir) if output_dir is not None else _directory(loaded.path, data, split)
        recalibrated = calibrate or abstain_precision is not None
        if recalibrated:
            own = data if splits.is_own_data(loaded, data) else None
            loaded = recalibrate(loaded, abstain_precision, own, batch_size=batch_size, group=group)
        with group.in_turn():
            images = splits.load_split(loaded, split, data, tell=data is not None, warn=not recalibrated)
        with Progress(len(images) // group.size if progress else None, f"evaluate {split}") as bar:
            logits = loaded.logits(
                images, batch_size=batch_size, advance=bar.advance if progress else None, group=group
            )
        first = group.first
    probabilities = loaded.calibration.probabilities(logits)
    figures = metrics.summarize(images.labels, probabilities, loaded.class_names, split, threshold=loaded.threshold)
    result = Evaluation(figures, directory, images.labels, probabilities)
    if not first:
        return result
    if recalibrated and split == "test" and data is None:
        # What the file says of itself was measured with the probabilities of before.
        artifact.describe_again(loaded.path, loaded.info.model_copy(update={"metrics": figures}))
    run, file = loaded.path.parent, loaded.path
    write_files(directory, figures, loaded.keras_model, images, probabilities, run, file=file, draw=plots)
    if explain:
        found = measure_explanations(loaded.keras_model, images, directory, file, progress=progress)
        result = replace(result, explanations=found)
    write_page(loaded.path, directory)
    return result


def _directory(model: Path, source: str | None, split: str) -> Path:
    """Returns a folder beside the model; a link there would lead out of the run, perhaps of somebody else's."""
    if source is None:
        name = "evaluation" if split == "test" else f"evaluation-{split}"
    else:
        of = re.sub(r"[^\w.-]+", "-", Path(data_without_credentials(source)).name).strip("-.")
        name = f"evaluation-{cut_to_bytes(of, _LONGEST_NAME) or 'data'}-{split}"
    return inside(model.parent, name, error=OutputError)
