"""Measuring a model on a split: figures, tables and plots in a folder beside the model."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kcv import artifact, inference, metrics, plots
from kcv.artifact import LoadedModel
from kcv.errors import DataError
from kcv.files import write_csv, write_json
from kcv.progress import Progress


@dataclass(frozen=True)
class Evaluation:
    """What a model came to on one split.

    Attributes:
        metrics: as in `metrics.json`; see `kcv.metrics.summarize`.
        directory: the folder with the files.
        labels: int64 [n], positions in the model's class names.
        probabilities: float64 [n, classes].
    """

    metrics: dict[str, Any]
    directory: Path
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]


def evaluate(
    model: str | Path | LoadedModel,
    data: str | None = None,
    split: str = "test",
    output_dir: str | Path | None = None,
    *,
    batch_size: int = inference.BATCH_SIZE,
    device: str = "auto",
    progress: bool = False,
) -> Evaluation:
    """Measures a model and writes what was found.

    Figures of the test split of the training data equal those that training wrote, to the last digit, on the
    same machine.

    Args:
        model: a model file, or a loaded model.
        data: `cifar10`, `digits` or a path; by default what the model was trained on. Classes are matched by name.
        split: `train`, `val` or `test`. Splits that training made are made again.
        output_dir: the folder for the files; by default `evaluation` beside the model for the test split of the
            training data, and `evaluation-<split>` or `evaluation-<data>-<split>` for others, so that none overwrites
            another.
        batch_size: pictures a batch.
        device: where to run, if `model` is a file.
        progress: whether to show a progress bar on a terminal.

    Returns:
        The figures, and the folder that holds `metrics.json`, `per_class.csv`, `confusion_matrix.csv`,
        `confusion_matrix.png`, `roc.png` and, if the model lies beside its `history.csv`, `learning_curves.png`.

    Raises:
        ArtifactError: the model cannot be opened.
        DataError: the data cannot be read, lacks the split, or has classes that the model does not know.
        OutputError: the folder cannot be written to.
    """
    loaded = model if isinstance(model, LoadedModel) else artifact.load(model, device=device)
    pictures = artifact.load_split(loaded, split, data)
    with Progress(len(pictures) if progress else None, f"evaluate {split}") as bar:
        logits = inference.logits(
            loaded.keras_model,
            pictures,
            batch_size=batch_size,
            workers=None,
            advance=bar.advance if progress else None,
        )
    probabilities = inference.softmax(logits)
    figures = metrics.summarize(pictures.labels, probabilities, loaded.class_names, split)
    directory = Path(output_dir) if output_dir is not None else _directory(loaded.path, data, split)
    result = Evaluation(figures, directory, pictures.labels, probabilities)
    _write(result, loaded.class_names, loaded.path.parent / "history.csv")
    return result


def _directory(model: Path, source: str | None, split: str) -> Path:
    if source is None:
        return model.parent / ("evaluation" if split == "test" else f"evaluation-{split}")
    name = re.sub(r"[^\w.-]+", "-", Path(source).name).strip("-.") or "data"
    return model.parent / f"evaluation-{name}-{split}"


def _write(result: Evaluation, class_names: Sequence[str], history: Path) -> None:
    folder = result.directory
    write_json(folder / "metrics.json", result.metrics)
    columns = ["precision", "recall", "f1", "support"]
    per_class = result.metrics["per_class"].items()
    write_csv(
        folder / "per_class.csv",
        ["class", *columns],
        [[name, *(scores[key] for key in columns)] for name, scores in per_class],
    )
    matrix = metrics.confusion_matrix(result.labels, result.probabilities.argmax(axis=1), len(class_names))
    rows = [[name, *row] for name, row in zip(class_names, matrix.tolist(), strict=True)]
    write_csv(folder / "confusion_matrix.csv", ["true class", *class_names], rows)
    plots.confusion_matrix(matrix, class_names, folder / "confusion_matrix.png")
    plots.roc_curves(result.labels, result.probabilities, class_names, folder / "roc.png")
    if history.is_file():
        plots.learning_curves(_read_history(history), folder / "learning_curves.png")


def _read_history(path: Path) -> list[dict[str, float]]:
    try:
        rows = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
        return [{key: float(value) for key, value in row.items()} for row in rows]
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: is not the history of a run: {error}") from None
