"""Plots of a search: the course of its trials, what matters, and which values the good trials have."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kcv.reporting.plots import style
from kcv.reporting.plots.style import COLOURS, GREY, INK, epochs_below, marker_of, new_figure, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_OTHERS = "#b3bac0"
_MOST_TICKS = 8
_MARGIN = 0.06  # of an axis of numbers, above and below


def trial_courses(
    courses: Mapping[int, Mapping[int, float]],
    monitor: str,
    path: Path,
    *,
    best: int | None,
    default: int | None,
    unit: str = "epoch",
) -> Path:
    """Draws the best monitor so far over the epochs, or its mean so far over the folds, a line per trial.

    Args:
        courses: values by epoch or fold (from 1), by number of the trial.
        monitor: what the values are.
        path: the PNG file, overwritten if it exists.
        best: number of the best trial, which is drawn strongest; None if there is none.
        default: number of the trial of the user's own configuration; None if it is not among them.
        unit: `epoch` or `fold`.

    Returns:
        `path`.

    Raises:
        OutputError: a file cannot be written.
    """
    with new_figure((9.6, 4.2), path) as figure:
        axes = figure.subplots()
        longest = max((max(values, default=0) for values in courses.values()), default=0)
        told: dict[int | None, tuple[str, str, float]] = {}
        if default is not None:
            told[default] = (COLOURS[1], f"trial {default}: your configuration", 2.2)
        if best is not None:
            both = ", and your configuration" if best == default else ""
            told[best] = (COLOURS[0], f"trial {best}: the best{both}", 2.6)
        for number, values in courses.items():
            colour, label, width = told.get(number, (_OTHERS, "", 1.2))
            order = 3 if number in told else 2
            axes.plot(list(values), list(values.values()), color=colour, linewidth=width, label=label or None,
                      marker=marker_of(longest), markersize=3, zorder=order)  # fmt: skip
        what = f"best {monitor} so far" if unit == "epoch" else f"mean {monitor} over the folds so far"
        axes.set(title=f"{what}, by trial", ylabel=monitor)
        epochs_below(axes, unit)
        if told:
            axes.legend(loc="lower right")
    return path


def importance_bars(shares: Mapping[str, float], path: Path) -> Path:
    """Draws how much each key matters, as bars.

    Args:
        shares: 0-1, by key, the most important first.
        path: the PNG file, overwritten if it exists.

    Returns:
        `path`.

    Raises:
        OutputError: a file cannot be written.
    """
    with new_figure((7.2, 1.0 + 0.42 * len(shares)), path) as figure:
        axes = figure.subplots()
        names = list(shares)[::-1]
        bars = axes.barh(range(len(names)), [shares[name] for name in names], color=COLOURS[0], height=0.62)
        axes.set_yticks(range(len(names)), names)
        axes.set(xlabel="importance", title="what decides whether a trial is good")
        axes.grid(False, axis="y")
        axes.bar_label(bars, [f"{100 * shares[name]:.0f}%" for name in names], padding=4, fontsize=9, color=INK)
        axes.set_xlim(0, max(shares.values(), default=1.0) * 1.15 or 1.0)
    return path


def parallel_coordinates(
    trials: Sequence[tuple[Mapping[str, Any], float]],
    axes_of: Mapping[str, Any],
    path: Path,
    *,
    monitor: str,
    higher: bool,
) -> Path:
    """Draws each trial as a line through its values, with the monitor at the right; good trials are dark and on top.

    Args:
        trials: the values by key, and the monitor.
        axes_of: by key the list of choices, or a range with `low`, `high` and possibly `log`.
        path: the PNG file, overwritten if it exists.
        monitor: what the monitor is.
        higher: whether a higher monitor is better.

    Returns:
        `path`.

    Raises:
        OutputError: a file cannot be written.
    """
    style.load_matplotlib()
    from matplotlib.colors import LinearSegmentedColormap

    values = [value for _, value in trials]
    low, high = min(values), max(values)
    blues = LinearSegmentedColormap.from_list("good", ["#dfe7ec", "#8fbfdc", COLOURS[0], "#01304c"])
    with new_figure((max(6.4, 1.9 * (len(axes_of) + 1)), 4.4), path) as figure:
        axes = figure.subplots()
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.set_yticks([])
        keys = list(axes_of)
        ranks = sorted(trials, key=lambda trial: trial[1] if higher else -trial[1])
        for params, value in ranks:
            share = (value - low) / (high - low) if high > low else 1.0
            heights = [_height(axes_of[key], params[key]) for key in keys]
            axes.plot(range(len(keys) + 1), [*heights, _inner(share)], linewidth=1.6,
                      color=blues(share if higher else 1 - share))  # fmt: skip
        for place, key in enumerate(keys):
            _draw_axis(axes, place, _ticks(axes_of[key]))
        _draw_axis(axes, len(keys), [(_inner(0.0), f"{low:.4g}"), (_inner(1.0), f"{high:.4g}")])
        names = [key.replace(".", ".\n", 1) for key in keys]
        axes.set_xticks(range(len(keys) + 1), [*names, monitor])
        axes.tick_params(length=0)
        axes.set_xlim(-0.15, len(keys) + 0.45)
        axes.set_ylim(-0.03, 1.03)
        axes.set_title("values of the trials; dark lines are the good ones")
    return path


def _draw_axis(axes: Axes, place: int, ticks: Sequence[tuple[float, str]]) -> None:
    """Draws a vertical axis with its labels at the right of it."""
    axes.axvline(place, color=GREY, linewidth=0.9, zorder=3)
    for height, label in ticks:
        box = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
        axes.text(place + 0.03, height, short(label), fontsize=8, color=INK, va="center", zorder=4, bbox=box)


def _inner(share: float) -> float:
    return _MARGIN + (1 - 2 * _MARGIN) * share


def _height(axis: Any, value: Any) -> float:
    """Returns the height of a value on its axis, 0-1."""
    if isinstance(axis, list):
        return _inner(axis.index(value) / max(1, len(axis) - 1)) if value in axis else 0.0
    low, high = float(axis["low"]), float(axis["high"])
    if axis.get("log"):
        return _inner(math.log(value / low) / math.log(high / low))
    return _inner((value - low) / (high - low))


def _ticks(axis: Any) -> list[tuple[float, str]]:
    """Returns heights and labels of an axis."""
    if isinstance(axis, list):
        shown = axis if len(axis) <= _MOST_TICKS else [axis[0], axis[-1]]
        return [(_height(axis, value), "null" if value is None else str(value)) for value in shown]
    middle = math.sqrt(axis["low"] * axis["high"]) if axis.get("log") else (axis["low"] + axis["high"]) / 2
    return [(_height(axis, value), f"{value:.3g}") for value in (axis["low"], middle, axis["high"])]
