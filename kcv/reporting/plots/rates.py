"""The plot of a learning-rate range test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kcv.reporting.plots import style
from kcv.reporting.plots.style import COLOURS, INK, PALE, new_figure


def learning_rate_range(
    rates: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    suggestion: float,
    configured: float,
    path: Path,
) -> Path:
    """Draws the loss over the learning rate, and marks the suggestion, and what it follows from.

    Args:
        rates: the learning rate of each step.
        losses: the loss of each step.
        smoothed: the smoothed losses.
        suggestion: the suggested rate.
        configured: the rate of the configuration.
        path: the PNG file, overwritten if it exists.

    Returns:
        `path`.

    Raises:
        OutputError: a file cannot be written.
    """
    style.load_matplotlib()
    from matplotlib.ticker import FuncFormatter, NullFormatter

    with new_figure((7.2, 4.2), path) as figure:
        axes = figure.subplots()
        axes.plot(rates, losses, color=PALE, linewidth=1.2, label="loss of each step")
        axes.plot(rates, smoothed, color=COLOURS[0], label="smoothed")
        lowest = min(range(len(smoothed)), key=smoothed.__getitem__)
        axes.plot(rates[lowest], smoothed[lowest], "o", color=COLOURS[0], label=f"lowest: at {rates[lowest]:.2g}")
        axes.axvline(suggestion, color=COLOURS[1], linewidth=1.8, label=f"suggestion: {suggestion:g}, a tenth of it")
        axes.axvline(configured, color=INK, linewidth=1.0, linestyle=":", label=f"configured: {configured:g}")
        low, high = min(*smoothed, *losses), max(smoothed)
        axes.set_ylim(low - 0.1 * (high - low), min(high, 3 * max(smoothed[0], low)) + 0.1 * (high - low))
        axes.set(xscale="log", xlabel="learning rate", ylabel="training loss", title="learning-rate range test")
        # The usual labels, powers of ten, are formulas, which kcv's style does not draw.
        axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, place: f"{rate:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.legend(loc="best")
    return path
