"""The reliability diagram: accuracy against confidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kcv.reporting.plots.evaluation import Evaluated, evaluation_plot
from kcv.reporting.plots.style import COLOURS, GREY, INK, PALE, new_figure


def reliability_diagram(bins: Sequence[Mapping[str, Any]], ece: float | None, path: Path) -> Path:
    """Draws accuracy against confidence, and below it a histogram of the confidences.

    Args:
        bins: as returned by `kcv.metrics.reliability`; may be empty.
        ece: expected calibration error (0-1) for the title; None if undefined.
        path: the PNG file, overwritten if it exists.

    Returns:
        `path`.

    Raises:
        OutputError: the file cannot be written.
    """
    filled = [row for row in bins if row["n"]]
    total = sum(row["n"] for row in filled)
    with new_figure((5.6, 6.4), path) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        width = 1 / max(len(bins), 1)
        upper.plot([0, 1], [0, 1], color=GREY, linestyle=(0, (4, 3)), linewidth=1, zorder=3)
        if filled:
            middles = [(row["low"] + row["high"]) / 2 for row in filled]
            accuracies = [row["accuracy"] for row in filled]
            confidences = [row["confidence"] for row in filled]
            upper.bar(middles, accuracies, 0.92 * width, color=COLOURS[5], zorder=2, label="accuracy")
            upper.vlines(confidences, accuracies, confidences, color=COLOURS[1], linewidth=1.6, zorder=4)
            upper.plot(confidences, confidences, "o", color=COLOURS[1], markersize=4, zorder=5, label="mean confidence")
            upper.legend(loc="upper left")
            lower.bar(middles, [100 * row["n"] / total for row in filled], 0.92 * width, color=PALE, zorder=2)
            mean = sum(row["n"] * row["confidence"] for row in filled) / total
            right = sum(row["n"] * row["accuracy"] for row in filled) / total
            for value, colour, name in ((right, COLOURS[0], "accuracy"), (mean, COLOURS[1], "mean confidence")):
                lower.axvline(value, color=colour, linewidth=1.4, zorder=3, label=f"{name} {value:.1%}")
            lower.legend(loc="upper left", fontsize=8, labelcolor=INK)
        upper.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="accuracy")
        lower.set(xlabel="confidence: probability of the predicted class", ylabel="% of images")
        title = "not defined" if ece is None else f"{100 * ece:.2f} points on average"
        upper.set_title(f"calibration: confidence is off by {title}" if ece is not None else f"calibration: {title}")
    return path


@evaluation_plot(
    "reliability", section="calibration", alt="accuracy against confidence, and how often each confidence occurs"
)
def _of_evaluation(evaluated: Evaluated, path: Path) -> None:
    reliability_diagram(evaluated.figures["reliability"], evaluated.figures["ece"], path)
