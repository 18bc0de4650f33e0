"""Plots of the confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kcv.reporting.plots import style
from kcv.reporting.plots.evaluation import Evaluated, evaluation_plot
from kcv.reporting.plots.style import COLOURS, INK, PALE, new_figure, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_NUMBERED = 20  # classes up to which a confusion matrix shows its counts
_MOST_NAMED = 50  # classes up to which it names every class


def confusion_matrix(
    matrix: NDArray[np.int64], class_names: Sequence[str], path: Path, *, normalized: bool = False
) -> Path:
    """Draws a confusion matrix.

    Colour is the fraction of the true class, so that small classes are as visible as large ones. Up to 20 classes the
    cells contain counts or percentages; above 50 classes numbers replace names, and the most frequent mistakes are
    listed.

    Args:
        matrix: counts, int [classes, classes], true classes in rows.
        class_names: the classes, in order.
        path: the PNG file, overwritten if it exists.
        normalized: whether the cells contain percentages of the true class instead of counts.

    Returns:
        `path`.

    Raises:
        OutputError: the file cannot be written.
    """
    style.load_matplotlib()
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm

    classes = len(class_names)
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = min(max(3.6, 1.2 + 0.5 * classes), 8.4)
    with new_figure((side + 2.4, side + 1.0), path) as figure:
        axes = figure.subplots()
        blues = LinearSegmentedColormap.from_list("share", ["#ffffff", "#b7d7ea", COLOURS[0], "#01304c"])
        # Fractions of a few percent, invisible on a linear scale, matter most in a good classifier.
        image = axes.imshow(share, cmap=blues, norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        if classes <= _MOST_NAMED:
            small = 9 if classes <= _MOST_NUMBERED else 6
            names = [short(name) for name in class_names]
            upright = classes <= 12 and max(map(len, names)) <= 3
            axes.set_xticks(range(classes), names, fontsize=small, rotation=0 if upright else 90)
            axes.set_yticks(range(classes), names, fontsize=small)
            axes.set(xlabel="predicted", ylabel="true")
            axes.set_xticks(np.arange(0.5, classes - 1), minor=True)
            axes.set_yticks(np.arange(0.5, classes - 1), minor=True)
            axes.grid(True, which="minor", color="#eeeeee", linewidth=0.6)
            axes.tick_params(which="minor", length=0)
        else:
            axes.set(xlabel="predicted (number of the class, from 0)", ylabel="true")
            axes.spines[:].set(visible=True, color=PALE)
        if classes <= _MOST_NUMBERED:
            _write_cells(axes, matrix, share, normalized)
        bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.03, aspect=32, ticks=[0, 0.01, 0.1, 0.25, 0.5, 1])
        bar.ax.set_yticklabels(["0", "1%", "10%", "25%", "50%", "100%"])
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=0)
        bar.set_label("share of the true class")
        correct, n = int(matrix.trace()), int(matrix.sum())
        unit = ", cells in percent of the true class" if normalized else ""
        axes.set_title(f"{correct:,} of {n:,} right ({correct / max(n, 1):.1%}){unit}")
        if classes > _MOST_NAMED:
            figure.supxlabel("most frequent mistakes:  " + _worst(matrix, class_names), fontsize=8, color=INK)
    return path


@evaluation_plot("confusion_matrix")
def _counts(evaluated: Evaluated, path: Path) -> None:
    if evaluated.matrix is not None:
        confusion_matrix(evaluated.matrix, evaluated.class_names, path)


@evaluation_plot("confusion_matrix_normalized", section="results", alt="confusion matrix, in percent of the true class")
def _percentages(evaluated: Evaluated, path: Path) -> None:
    if evaluated.matrix is not None:
        confusion_matrix(evaluated.matrix, evaluated.class_names, path, normalized=True)


def _write_cells(axes: Axes, matrix: NDArray[np.int64], share: NDArray[np.float64], normalized: bool) -> None:
    longest = 4 if normalized else len(f"{matrix.max()}")
    size = (9 if len(matrix) <= 12 else 7) - max(0, longest - 4)
    for row, column in zip(*np.nonzero(matrix), strict=True):
        colour = "white" if share[row, column] > 0.25 else INK
        words = f"{100 * share[row, column]:.1f}" if normalized else str(matrix[row, column])
        axes.text(column, row, words, ha="center", va="center", color=colour, fontsize=size)


def _worst(matrix: NDArray[np.int64], class_names: Sequence[str], most: int = 6) -> str:
    """Lists the most frequent mistakes as `true > predicted (count)`."""
    wrong = matrix * (1 - np.eye(len(matrix), dtype=np.int64))
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    cells = [divmod(int(i), len(wrong)) for i in order if wrong.flat[i] > 0]
    words = [f"{short(class_names[r])} > {short(class_names[c])} ({wrong[r, c]})" for r, c in cells]
    lines = [",  ".join(words[i : i + 3]) for i in range(0, len(words), 3)]
    return ",\n".join(lines) or "none"
