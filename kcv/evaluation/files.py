"""What an evaluation leaves in its folder: tables and plots."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kcv import metrics, plots
from kcv.errors import DataError
from kcv.files import write_csv, write_json


def write_files(
    folder: Path,
    figures: dict[str, Any],
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float64],
    history: Path,
) -> None:
    """Writes the figures, the tables and the plots of a split.

    `metrics.json`, `per_class.csv`, the confusion matrix as counts and as shares of the true classes (CSV and plots),
    ROC curves, the reliability diagram and, where there is a `history.csv`, the learning curves.

    Args:
        folder: where to; made where it is missing.
        figures: as from `kcv.metrics.summarize`.
        labels: int [n].
        probabilities: [n, classes].
        history: the `history.csv` of the run, if it is one.

    Raises:
        DataError: the history is damaged.
        OutputError: the folder cannot be written to.
    """
    class_names = list(figures["per_class"])
    write_json(folder / "metrics.json", figures)
    per_class = figures["per_class"].items()
    columns = list(next(iter(figures["per_class"].values())))
    write_csv(
        folder / "per_class.csv",
        ["class", *columns],
        [[name, *(scores[key] for key in columns)] for name, scores in per_class],
    )
    matrix = metrics.confusion_matrix(labels, probabilities.argmax(axis=1), len(class_names))
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    for name, cells in (("confusion_matrix", matrix), ("confusion_matrix_normalized", shares)):
        rows = [[true, *row] for true, row in zip(class_names, cells.tolist(), strict=True)]
        write_csv(folder / f"{name}.csv", ["true class", *class_names], rows)
    plots.confusion_matrix(matrix, class_names, folder / "confusion_matrix.png")
    plots.confusion_matrix(matrix, class_names, folder / "confusion_matrix_normalized.png", normalized=True)
    plots.roc_curves(labels, probabilities, class_names, folder / "roc.png")
    plots.reliability_diagram(figures["reliability"], figures["ece"], folder / "reliability.png")
    if history.is_file():
        plots.learning_curves(_read_history(history), folder / "learning_curves.png")


def _read_history(path: Path) -> list[dict[str, float]]:
    try:
        rows = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
        return [{key: float(value) for key, value in row.items()} for row in rows]
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: is not the history of a run: {error}") from None
