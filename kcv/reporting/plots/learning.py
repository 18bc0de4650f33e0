"""Metrics over the epochs: of one run, and of several runs overlaid."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from kcv.common.text import printable, shortened
from kcv.metrics.standing import standing
from kcv.reporting.plots.evaluation import Evaluated, evaluation_plot
from kcv.reporting.plots.style import COLOURS, PALE, epochs_below, marker_of, new_figure, short

_NOT_DRAWN = ("epoch", "learning_rate", "seconds", "images_per_second")
_MOST_FURTHER = 4
_LONGEST_TITLE = 40


def learning_curves(rows: Sequence[Mapping[str, float]], path: Path) -> Path:
    """Draws loss, accuracy, and up to four further metrics of the training and validation images over the epochs.

    Args:
        rows: one per epoch, with the columns of `history.csv`; missing columns are not drawn.
        path: the PNG file, overwritten if it exists.

    Returns:
        `path`.

    Raises:
        OutputError: the file cannot be written.
    """
    epochs = [row["epoch"] for row in rows]
    marker = marker_of(len(rows))
    names = ["loss", "accuracy", *_further(rows)]
    lines = -(-len(names) // 2)
    with new_figure((9.6, 3.9 * lines), path) as figure:
        grid = list(figure.subplots(lines, 2).flat)
        for axes in grid[len(names) :]:
            axes.remove()
        for axes, figure_name in zip(grid, names, strict=False):
            for key, label, colour in ((figure_name, "training", 0), (f"val_{figure_name}", "validation", 1)):
                values = [row.get(key, math.nan) for row in rows]
                if any(map(math.isfinite, values)):
                    axes.plot(epochs, values, color=COLOURS[colour], label=label, marker=marker, markersize=4)
            # The name may come from an untrusted file, and is not a formula.
            axes.set_title(shortened(printable(figure_name), _LONGEST_TITLE), parse_math=False)
            epochs_below(axes)
            if axes.lines:
                axes.legend(loc="upper right" if figure_name == "loss" else "lower right")
            if figure_name == "accuracy" and (best := _best(rows)) is not None:
                axes.axvline(best["epoch"], color=PALE, linewidth=1, zorder=1)
                axes.set_title(f"accuracy: validation at best {best['val_accuracy']:.4f}, epoch {best['epoch']:g}")
    return path


@evaluation_plot("learning_curves", section="training", alt="loss and accuracy by epoch")
def _of_evaluation(evaluated: Evaluated, path: Path) -> None:
    if evaluated.epochs:
        learning_curves(evaluated.epochs, path)


def _further(rows: Sequence[Mapping[str, float]]) -> list[str]:
    """Returns the names, without `val_`, of the metrics other than loss and accuracy."""
    names = dict.fromkeys(str(key).removeprefix("val_") for row in rows for key in row if key not in _NOT_DRAWN)
    return [name for name in names if name not in ("loss", "accuracy")][:_MOST_FURTHER]


def _best(rows: Sequence[Mapping[str, float]]) -> Mapping[str, float] | None:
    """Returns the row of the best epoch by validation accuracy; None if no row has one."""
    known = [(standing(row), row["epoch"], row) for row in rows if "val_accuracy" in row]
    finite = [entry for entry in known if entry[0] is not None]
    return max(finite, key=lambda entry: entry[:2])[2] if finite else None


def compared_curves(histories: Mapping[str, Sequence[Mapping[str, float]]], path: Path) -> Path:
    """Draws validation loss and accuracy of several runs over the epochs.

    Args:
        histories: the rows of `history.csv`, by run name.
        path: the PNG file, overwritten if it exists.

    Returns:
        `path`.

    Raises:
        OutputError: a file cannot be written.
    """
    with new_figure((10.4, 4.0), path) as figure:
        panels = figure.subplots(1, 2)
        for axes, key in zip(panels, ("val_loss", "val_accuracy"), strict=True):
            for i, (name, rows) in enumerate(histories.items()):
                style = "-" if i < len(COLOURS) else (0, (2, 1))
                epochs, values = [row["epoch"] for row in rows], [row.get(key, math.nan) for row in rows]
                marker = marker_of(len(rows))
                axes.plot(epochs, values, color=COLOURS[i % len(COLOURS)], linestyle=style, marker=marker, markersize=4,
                          label=short(name))  # fmt: skip
            axes.set(title=key.replace("val_", "validation "))
            epochs_below(axes)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper")
    return path
