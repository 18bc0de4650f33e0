"""Overlaid learning curves of several runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from kcv.reporting.plots.style import COLOURS, epochs_below, marker_of, new_figure, short


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
