"""What an evaluation leaves in its folder: tables and plots."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kcv import metrics, plots
from kcv.files import write_csv, write_json
from kcv.mistakes import draw_mistakes, write_mistakes
from kcv.reporting import known_history

if TYPE_CHECKING:
    import keras

    from kcv.data.dataset import Pictures

PLOTS = ("confusion_matrix", "confusion_matrix_normalized", "roc", "reliability", "mistakes", "learning_curves")
"""Names of the plots, without their suffix."""


def write_files(
    folder: Path,
    figures: dict[str, Any],
    model: keras.Model,
    pictures: Pictures,
    probabilities: NDArray[np.float64],
    run: Path,
    *,
    draw: bool = True,
) -> None:
    """Writes the figures, the tables and the plots of a split.

    `metrics.json`, `per_class.csv`, the confusion matrix as counts and as shares of the true classes (CSV and plots),
    the most confident mistakes (JSON and plot), ROC curves, the reliability diagram and, where there is a sound
    `history.csv`, the learning curves. Plots of an earlier evaluation are removed first.

    Args:
        folder: where to; made where it is missing.
        figures: as from `kcv.metrics.summarize`.
        model: the measured model; its heat maps are drawn beside the mistakes.
        pictures: the split.
        probabilities: [n, classes].
        run: the folder of the run, for its `history.csv`, if it has one.
        draw: whether to draw the plots.

    Raises:
        OutputError: the folder cannot be written to.
    """
    class_names, labels = list(figures["per_class"]), pictures.labels
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
    mistakes = write_mistakes(folder, pictures, probabilities, class_names)
    epochs = known_history(run)
    for name in PLOTS:
        for suffix in (".png", ".svg"):
            (folder / f"{name}{suffix}").unlink(missing_ok=True)  # it would show what was measured before
    if draw:
        plots.confusion_matrix(matrix, class_names, folder / "confusion_matrix.png")
        plots.confusion_matrix(matrix, class_names, folder / "confusion_matrix_normalized.png", normalized=True)
        plots.roc_curves(labels, probabilities, class_names, folder / "roc.png")
        plots.reliability_diagram(figures["reliability"], figures["ece"], folder / "reliability.png")
        if mistakes:
            draw_mistakes(folder / "mistakes.png", mistakes, model, pictures, class_names)
        if epochs:
            plots.learning_curves(epochs, folder / "learning_curves.png")
