"""A grid of images, each beside its augmented views."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kcv.reporting.plots.style import GREY, new_figure, short

_PANEL = 1.35  # inches
_LEAST_SIDE = 160  # px of a drawn image: the SVG file holds the pixels, and viewers smooth small ones


def save_augmented_grid(images: NDArray[np.uint8], titles: Sequence[str], path: Path, *, note: str) -> Path:
    """Draws one row per image: itself, then its views; writes PNG and SVG.

    Args:
        images: uint8 [n, 1 + views, size, size, 3] RGB.
        titles: the class of each image.
        path: the PNG file, overwritten if it exists.
        note: the augmentation, as a heading.

    Returns:
        `path`.

    Raises:
        OutputError: a file cannot be written.
    """
    rows, columns = images.shape[:2]
    factor = max(1, math.ceil(_LEAST_SIDE / images.shape[2]))
    with new_figure((_PANEL * columns + 0.6, _PANEL * rows + 0.7), path) as figure:
        figure.suptitle(textwrap.fill(note, 16 * columns), x=0.01, ha="left", fontsize=10, color=GREY)
        panels = figure.subplots(rows, columns, squeeze=False)
        for row, (line, title) in enumerate(zip(panels, titles, strict=True)):
            for column, axes in enumerate(line):
                axes.imshow(images[row, column].repeat(factor, axis=0).repeat(factor, axis=1))
                axes.set_xticks([])
                axes.set_yticks([])
                axes.spines[:].set_visible(False)
                if row == 0:
                    name = "original" if column == 0 else f"epoch {column}"
                    axes.set_title(
                        name, fontsize=9, pad=4, loc="center", fontweight="bold" if column == 0 else "normal"
                    )
            line[0].set_ylabel(short(title), fontsize=9)
    return path
