"""Losses and accuracies over the epochs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from kcv.metrics.standing import standing
from kcv.reporting.plots import library
from kcv.reporting.plots.style import COLOURS, PALE, new_figure


def learning_curves(rows: Sequence[Mapping[str, float]], path: Path) -> Path:
    """Draws loss and accuracy of the training and validation images over the epochs.

    Args:
        rows: one an epoch, with the columns of `history.csv`; columns that are missing are not drawn.
        path: the PNG file, replaced where it exists.

    Returns:
        `path`.

    Raises:
        OutputError: the file cannot be written.
    """
    library.load()
    from matplotlib.ticker import MaxNLocator

    epochs = [row["epoch"] for row in rows]
    marker = "o" if len(rows) <= 15 else ""
    with new_figure((9.6, 3.9), path) as figure:
        for axes, figure_name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
            for key, label, colour in ((figure_name, "training", 0), (f"val_{figure_name}", "validation", 1)):
                values = [row.get(key, math.nan) for row in rows]
                if any(map(math.isfinite, values)):
                    axes.plot(epochs, values, color=COLOURS[colour], label=label, marker=marker, markersize=4)
            axes.set(title=figure_name, xlabel="epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            if axes.lines:
                axes.legend(loc="upper right" if figure_name == "loss" else "lower right")
            if figure_name == "accuracy" and (best := _best(rows)) is not None:
                axes.axvline(best["epoch"], color=PALE, linewidth=1, zorder=1)
                axes.set_title(f"accuracy: validation at best {best['val_accuracy']:.4f}, epoch {best['epoch']:g}")
    return path


def _best(rows: Sequence[Mapping[str, float]]) -> Mapping[str, float] | None:
    """Returns the row of the epoch that a training keeps by its validation accuracy; None where no row has one."""
    known = [(standing(row), row["epoch"], row) for row in rows if "val_accuracy" in row]
    finite = [entry for entry in known if entry[0] is not None]
    return max(finite, key=lambda entry: entry[:2])[2] if finite else None
