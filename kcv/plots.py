"""Plots of a classifier as PNG files: the only place that draws.

One style: white ground, thin grey axes, the colours of Okabe and Ito (told apart by people with any colour vision).
Matplotlib is imported inside the functions and used without pyplot: no window, no global figure, safe in threads.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kcv import metrics
from kcv.files import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999933")
"""Okabe and Ito, strongest first; yellow, too pale for lines on white, made olive."""

_INK, _GREY, _PALE = "#333333", "#8a8a8a", "#d9d9d9"
_STYLE: dict[str, Any] = {
    "font.size": 10, "axes.titlesize": 11, "axes.titlelocation": "left", "axes.titleweight": "bold",
    "axes.titlepad": 10, "axes.labelcolor": _INK, "text.color": _INK, "xtick.color": _INK, "ytick.color": _INK,
    "axes.edgecolor": _GREY, "axes.linewidth": 0.8, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": "#ececec", "grid.linewidth": 0.8,
    "xtick.major.width": 0.8, "ytick.major.width": 0.8, "xtick.labelsize": 9, "ytick.labelsize": 9,
    "lines.linewidth": 1.8, "legend.frameon": False, "legend.fontsize": 9, "savefig.dpi": 150,
    "text.parse_math": False,  # a class may be called "$5 notes"
}  # fmt: skip
_FONTS = ("DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "Microsoft YaHei", "Hiragino Sans", "Arial Unicode MS")
_LONGEST_NAME = 18
_MOST_NUMBERED = 20  # classes up to which a confusion matrix shows its counts
_MOST_NAMED = 50  # and up to which it names every class
_MOST_CURVES = 10


def confusion_matrix(matrix: NDArray[np.int64], class_names: Sequence[str], path: Path) -> Path:
    """Draws which classes are taken for which.

    Colour is the share of the true class, so that small classes count as much as large ones. Up to 20 classes the
    cells hold their counts; beyond 50 classes numbers stand for names, and the most frequent mistakes are listed.

    Args:
        matrix: counts, int [classes, classes], true classes in rows.
        class_names: the classes, in order.
        path: the PNG file, replaced where it exists.

    Returns:
        `path`.

    Raises:
        OutputError: the file cannot be written.
    """
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm

    classes = len(class_names)
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = min(max(3.6, 1.2 + 0.5 * classes), 8.4)
    with _figure((side + 2.4, side + 1.0), path) as figure:
        axes = figure.subplots()
        blues = LinearSegmentedColormap.from_list("share", ["#ffffff", "#b7d7ea", COLOURS[0], "#01304c"])
        # Shares of a few percent, invisible on a linear scale, are what one looks for in a good classifier.
        picture = axes.imshow(share, cmap=blues, norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        if classes <= _MOST_NAMED:
            small = 9 if classes <= _MOST_NUMBERED else 6
            names = [_short(name) for name in class_names]
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
            axes.spines[:].set(visible=True, color=_PALE)
        if classes <= _MOST_NUMBERED:
            _write_counts(axes, matrix, share)
        bar = figure.colorbar(picture, ax=axes, fraction=0.04, pad=0.03, aspect=32, ticks=[0, 0.01, 0.1, 0.25, 0.5, 1])
        bar.ax.set_yticklabels(["0", "1%", "10%", "25%", "50%", "100%"])
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=0)
        bar.set_label("share of the true class")
        correct, n = int(matrix.trace()), int(matrix.sum())
        axes.set_title(f"{correct:,} of {n:,} right ({correct / max(n, 1):.1%})")
        if classes > _MOST_NAMED:
            figure.supxlabel("most frequent mistakes:  " + _worst(matrix, class_names), fontsize=8, color=_INK)
    return path


def roc_curves(
    labels: NDArray[np.integer[Any]], probabilities: NDArray[np.floating[Any]], class_names: Sequence[str], path: Path
) -> Path:
    """Draws each class's ROC curve against all other classes, with the upper left corner enlarged.

    Beyond 10 classes all curves are grey but those of the classes with the smallest area.

    Args:
        labels: positions in `class_names`, integer [n].
        probabilities: [n, classes].
        class_names: the classes, in order.
        path: the PNG file, replaced where it exists.

    Returns:
        `path`.

    Raises:
        OutputError: the file cannot be written.
    """
    areas = metrics.roc_aucs(labels, probabilities)
    ranked = sorted((area, c) for c, area in enumerate(areas) if area is not None)
    shown = ranked if len(ranked) <= _MOST_CURVES else ranked[: len(COLOURS) - 2]
    with _figure((8.2, 5.4), path) as figure:
        axes = figure.subplots()
        panels = [axes]
        if ranked and sum(area for area, _ in ranked) / len(ranked) > 0.9:
            corner = axes.inset_axes((0.36, 0.12, 0.6, 0.6))
            corner.set(xlim=(0, 0.1), ylim=(0.9, 1.003), xticks=[0, 0.05, 0.1], yticks=[0.9, 0.95, 1])
            corner.spines[:].set(visible=True, color=_PALE)
            corner.tick_params(labelsize=8, length=2)
            for line in axes.indicate_inset_zoom(corner, edgecolor=_GREY, linewidth=0.6).connectors or ():
                line.set_visible(False)
            panels.append(corner)
        axes.plot([0, 1], [0, 1], color=_PALE, linestyle=(0, (4, 3)), linewidth=1, zorder=1)
        for _, c in ranked if len(shown) < len(ranked) else []:
            false, true = _thin(*metrics.roc_curve(labels == c, probabilities[:, c]))
            for panel in panels:
                panel.plot(false, true, color=_PALE, linewidth=0.7, zorder=2)
        for i, (area, c) in enumerate(shown):
            false, true = _thin(*metrics.roc_curve(labels == c, probabilities[:, c]))
            look: dict[str, Any] = {
                "color": COLOURS[i % len(COLOURS)],
                "linestyle": "-" if i < len(COLOURS) else (0, (2, 1)),
            }
            for panel in panels:
                panel.plot(false, true, label=f"{area:.4f}  {_short(class_names[c])}", zorder=3, **look)
        axes.set(xlim=(-0.01, 1.0), ylim=(0, 1.01), xlabel="false positive rate", ylabel="true positive rate")
        axes.set_aspect("equal")
        if ranked:
            rest = f"\n(lowest {len(shown)} of {len(ranked)} classes)" if len(shown) < len(ranked) else ""
            mean = math.fsum(area for area, _ in ranked) / len(ranked)
            legend = axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), title="area  class" + rest)
            legend.get_title().set(fontsize=9, color=_GREY)
            legend.set_alignment("left")
            axes.set_title(f"ROC, one class against the rest: mean area {mean:.4f}")
        else:
            axes.set_title("ROC: not defined, all pictures are of one class")
    return path


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
    from matplotlib.ticker import MaxNLocator

    epochs = [row["epoch"] for row in rows]
    marker = "o" if len(rows) <= 15 else ""
    with _figure((9.6, 3.9), path) as figure:
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
                axes.axvline(best, color=_PALE, linewidth=1, zorder=1)
                axes.set_title(f"accuracy: validation at best {validation[best]:.4f}, epoch {best:g}")
    return path


@contextmanager
def _figure(size: tuple[float, float], path: Path) -> Iterator[Figure]:
    """Gives an empty figure of `size` (inches) in kcv's style, and writes it, whole or not at all."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.font_manager import get_font_names
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    installed = set(get_font_names())
    # Any, as the keys are checked by matplotlib, not by its types.
    style: Any = {**_STYLE, "font.family": [font for font in _FONTS if font in installed] or ["sans-serif"]}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))
        yield figure
        with atomic(path) as temporary, warnings.catch_warnings():
            # A name in a script that no installed font has is drawn as boxes; the CSV files beside it have it right.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            figure.savefig(temporary, format="png", bbox_inches="tight", pad_inches=0.15, metadata={"Software": None})


def _write_counts(axes: Axes, matrix: NDArray[np.int64], share: NDArray[np.float64]) -> None:
    longest = len(f"{matrix.max()}")
    size = (9 if len(matrix) <= 12 else 7) - max(0, longest - 4)
    for row, column in zip(*np.nonzero(matrix), strict=True):
        colour = "white" if share[row, column] > 0.25 else _INK
        axes.text(column, row, str(matrix[row, column]), ha="center", va="center", color=colour, fontsize=size)


def _worst(matrix: NDArray[np.int64], class_names: Sequence[str], most: int = 6) -> str:
    """The most frequent mistakes in words, as `true > predicted (count)`."""
    wrong = matrix * (1 - np.eye(len(matrix), dtype=np.int64))
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    cells = [divmod(int(i), len(wrong)) for i in order if wrong.flat[i] > 0]
    words = [f"{_short(class_names[r])} > {_short(class_names[c])} ({wrong[r, c]})" for r, c in cells]
    lines = [",  ".join(words[i : i + 3]) for i in range(0, len(words), 3)]
    return ",\n".join(lines) or "none"


def _thin(
    false: NDArray[np.float64], true: NDArray[np.float64], most: int = 2000
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Leaves out points that no eye would miss; a curve of a million steps takes minutes to draw."""
    if len(false) <= most:
        return false, true
    keep = np.unique(np.append(np.linspace(0, len(false) - 1, most).astype(np.int64), np.flatnonzero(false == 0)[-1]))
    return false[keep], true[keep]


def _short(name: str) -> str:
    """One line of at most 18 characters."""
    name = " ".join(name.split())
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
