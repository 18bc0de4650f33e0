"""Writes the files of an evaluation: tables and plots."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kcv import metrics
from kcv.common.files import remove, write_csv, write_json
from kcv.metrics import confusion
from kcv.reporting.material import known_history
from kcv.reporting.misclassified import draw_misclassified, write_mistakes
from kcv.reporting.plots.evaluation import MISTAKES, Evaluated, evaluation_plots

if TYPE_CHECKING:
    import keras

    from kcv.data.dataset import Images

MOST_IN_MATRIX = 1_000
"""Number of classes up to which the full confusion matrix is written and drawn; its size grows quadratically."""

_CELLS = "confusion_cells.csv"
_log = logging.getLogger(__name__)


def write_files(
    folder: Path,
    figures: dict[str, Any],
    model: keras.Model | None,
    images: Images,
    probabilities: NDArray[np.float64],
    run: Path,
    *,
    file: Path | None = None,
    draw: bool = True,
) -> None:
    """Writes the metrics, tables and plots of a split.

    Writes `metrics.json`, `per_class.csv`, the confusion matrix as counts and as fractions of the true classes (CSV and
    plots; above `MOST_IN_MATRIX` classes only its nonzero cells, in `confusion_cells.csv`), the most confident mistakes
    (JSON and plot), ROC curves, the reliability diagram and, if there is a valid `history.csv`, the learning curves.
    Plots of an earlier evaluation are removed first.

    Args:
        folder: the output folder; created if missing.
        figures: metrics, as returned by `kcv.metrics.summarize`.
        model: the evaluated model; its heat maps are drawn next to the mistakes. None: without heat maps.
        images: the split.
        probabilities: [n, classes].
        run: the run folder, for its `history.csv`, if there is one.
        file: see `kcv.reporting.misclassified.draw_misclassified`.
        draw: whether to draw the plots.

    Raises:
        ArtifactError: the model of a file cannot be explained.
        OutputError: the folder is not writable.
    """
    class_names, labels = list(figures["per_class"]), images.labels
    write_json(folder / "metrics.json", figures)
    per_class = figures["per_class"].items()
    columns = list(next(iter(figures["per_class"].values())))
    write_csv(
        folder / "per_class.csv",
        ["class", *columns],
        [[name, *(scores[key] for key in columns)] for name, scores in per_class],
    )
    cells = confusion(labels, probabilities.argmax(axis=1), len(class_names))
    matrix = cells.matrix() if len(class_names) <= MOST_IN_MATRIX else None
    _write_confusion(folder, cells, matrix, class_names)
    mistakes = write_mistakes(folder, images, probabilities, class_names)
    plots = evaluation_plots()
    for name in (MISTAKES, *(plot.name for plot in plots)):
        for suffix in (".png", ".svg"):
            remove(folder / f"{name}{suffix}")  # it would show the previous evaluation
    if draw:
        evaluated = Evaluated(labels, probabilities, class_names, figures, matrix, known_history(run))
        for plot in plots:
            plot.draw(evaluated, folder / f"{plot.name}.png")
        if mistakes:
            draw_misclassified(folder / f"{MISTAKES}.png", mistakes, model, images, class_names, file=file)


def _write_confusion(
    folder: Path, cells: metrics.Confusion, matrix: NDArray[np.int64] | None, class_names: list[str]
) -> None:
    """Writes the matrix, or, if there is none, one row per nonzero cell; removes files of the other form."""
    if matrix is not None:
        remove(folder / _CELLS)
        write_csv(
            folder / "confusion_matrix.csv",
            ["true class", *class_names],
            ([true, *row.tolist()] for true, row in zip(class_names, matrix, strict=True)),
        )
        write_csv(
            folder / "confusion_matrix_normalized.csv",
            ["true class", *class_names],
            ([true, *(row / max(row.sum(), 1)).tolist()] for true, row in zip(class_names, matrix, strict=True)),
        )
        return
    for name in ("confusion_matrix.csv", "confusion_matrix_normalized.csv"):
        remove(folder / name)
    support = cells.support
    found = zip(cells.true.tolist(), cells.predicted.tolist(), cells.counts.tolist(), strict=True)
    write_csv(
        folder / _CELLS,
        ["true class", "predicted class", "pictures", "share of the true class"],
        ([class_names[true], class_names[predicted], n, n / int(support[true])] for true, predicted, n in found),
    )
    _log.info(
        "%s classes are too many for a confusion matrix: %s has its cells that are not empty",
        f"{len(class_names):,}", folder / _CELLS,
    )  # fmt: skip
