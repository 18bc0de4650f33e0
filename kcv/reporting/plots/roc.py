"""ROC curves: how well each class is separated from the others at any threshold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kcv import metrics
from kcv.reporting.plots.evaluation import Evaluated, evaluation_plot
from kcv.reporting.plots.style import COLOURS, GREY, PALE, new_figure, short

_MOST_CURVES = 10
_MOST_GREY = 1_000  # grey curves; with more classes only every second, third ... one is drawn


def roc_curves(
    labels: NDArray[np.integer[Any]], probabilities: NDArray[np.floating[Any]], class_names: Sequence[str], path: Path
) -> Path:
    """Draws the ROC curve of each class against all others, with the upper left corner enlarged.

    Above 10 classes all curves are grey except those of the classes with the smallest area; above 1,000 some of the
    grey ones are left out.

    Args:
        labels: indices into `class_names`, integer [n].
        probabilities: [n, classes].
        class_names: the classes, in order.
        path: the PNG file, overwritten if it exists.

    Returns:
        `path`.

    Raises:
        OutputError: the file cannot be written.
    """
    areas = metrics.roc_aucs(labels, probabilities)
    ranked = sorted((area, c) for c, area in enumerate(areas) if area is not None)
    shown = ranked if len(ranked) <= _MOST_CURVES else ranked[: len(COLOURS) - 2]
    with new_figure((8.2, 5.4), path) as figure:
        axes = figure.subplots()
        panels = [axes]
        if ranked and sum(area for area, _ in ranked) / len(ranked) > 0.9:
            corner = axes.inset_axes((0.36, 0.12, 0.6, 0.6))
            corner.set(xlim=(0, 0.1), ylim=(0.9, 1.003), xticks=[0, 0.05, 0.1], yticks=[0.9, 0.95, 1])
            corner.spines[:].set(visible=True, color=PALE)
            corner.tick_params(labelsize=8, length=2)
            for line in axes.indicate_inset_zoom(corner, edgecolor=GREY, linewidth=0.6).connectors or ():
                line.set_visible(False)
            panels.append(corner)
        axes.plot([0, 1], [0, 1], color=PALE, linestyle=(0, (4, 3)), linewidth=1, zorder=1)
        for _, c in ranked[:: -(-len(ranked) // _MOST_GREY)] if len(shown) < len(ranked) else []:
            false, true = _thin(*metrics.roc_curve(labels == c, probabilities[:, c]))
            for panel in panels:
                panel.plot(false, true, color=PALE, linewidth=0.7, zorder=2)
        for i, (area, c) in enumerate(shown):
            false, true = _thin(*metrics.roc_curve(labels == c, probabilities[:, c]))
            look: dict[str, Any] = {
                "color": COLOURS[i % len(COLOURS)],
                "linestyle": "-" if i < len(COLOURS) else (0, (2, 1)),
            }
            for panel in panels:
                panel.plot(false, true, label=f"{area:.4f}  {short(class_names[c])}", zorder=3, **look)
        axes.set(xlim=(-0.01, 1.0), ylim=(0, 1.01), xlabel="false positive rate", ylabel="true positive rate")
        axes.set_aspect("equal")
        if ranked:
            rest = f"\n(lowest {len(shown)} of {len(ranked)} classes)" if len(shown) < len(ranked) else ""
            mean = math.fsum(area for area, _ in ranked) / len(ranked)
            legend = axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), title="area  class" + rest)
            legend.get_title().set(fontsize=9, color=GREY)
            legend.set_alignment("left")
            axes.set_title(f"ROC, one class against the rest: mean area {mean:.4f}")
        else:
            axes.set_title("ROC: not defined, all images are of one class")
    return path


@evaluation_plot("roc", section="results", alt="ROC curves, one class against the rest")
def _of_evaluation(evaluated: Evaluated, path: Path) -> None:
    roc_curves(evaluated.labels, evaluated.probabilities, evaluated.class_names, path)


def _thin(
    false: NDArray[np.float64], true: NDArray[np.float64], most: int = 2000
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Drops points that make no visible difference; drawing a curve with a million steps takes minutes."""
    if len(false) <= most:
        return false, true
    keep = np.unique(np.append(np.linspace(0, len(false) - 1, most).astype(np.int64), np.flatnonzero(false == 0)[-1]))
    return false[keep], true[keep]
