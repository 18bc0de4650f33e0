"""Losses and accuracies over the epochs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from kcv.plots import library
from kcv.plots.style import COLOURS, PALE, new_figure


def learning_curves(rows: Sequence[Mapping[str, float]], path: Path) -> Path:
    """Draws loss and accuracy of the training and validation pictures over the epochs.

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
            validation = {e: row["val_accuracy"] for e, row in zip(epochs, rows, strict=True) if "val_accuracy" in row}
            if figure_name == "accuracy" and any(map(math.isfinite, validation.values())):
                best = max(validation, key=lambda epoch: (math.isfinite(validation[epoch]), validation[epoch]))
                axes.axvline(best, color=PALE, linewidth=1, zorder=1)
                axes.set_title(f"accuracy: validation at best {validation[best]:.4f}, epoch {best:g}")
    return path
