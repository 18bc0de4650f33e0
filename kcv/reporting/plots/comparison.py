"""Overlaid learning curves of several runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from kcv.reporting.plots import library
from kcv.reporting.plots.style import COLOURS, new_figure, short


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
    library.load()
    from matplotlib.ticker import MaxNLocator

    with new_figure((10.4, 4.0), path) as figure:
        panels = figure.subplots(1, 2)
        for axes, key in zip(panels, ("val_loss", "val_accuracy"), strict=True):
            for i, (name, rows) in enumerate(histories.items()):
                style = "-" if i < len(COLOURS) else (0, (2, 1))
                epochs, values = [row["epoch"] for row in rows], [row.get(key, math.nan) for row in rows]
                marker = "o" if len(rows) <= 15 else ""
                axes.plot(epochs, values, color=COLOURS[i % len(COLOURS)], linestyle=style, marker=marker, markersize=4,
                          label=short(name))  # fmt: skip
            axes.set(title=key.replace("val_", "validation "), xlabel="epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper")
    return path
