"""The plots that belong to every evaluation: each file of this package registers its own.

The evaluation's folder, the report and the tracker take them from here, so a further plot is one file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kcv.common.discovery import import_modules

Section: TypeAlias = Literal["training", "results", "calibration"]

MISTAKES = "mistakes"
"""Name of the one plot that needs more than an `Evaluated`: the images and the model."""


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation plot can draw.

    Attributes:
        labels: indices into `class_names`, integer [n].
        probabilities: float [n, classes].
        class_names: the classes, in order.
        figures: the metrics, as returned by `kcv.metrics.summarize`.
        matrix: the confusion matrix, counts, integer [classes, classes]; None where there are too many classes for one.
        epochs: the rows of the run's `history.csv`; empty if it is not known.
    """

    labels: NDArray[np.integer[Any]]
    probabilities: NDArray[np.float64]
    class_names: Sequence[str]
    figures: Mapping[str, Any]
    matrix: NDArray[np.int64] | None
    epochs: Sequence[Mapping[str, float]]


@dataclass(frozen=True)
class EvaluationPlot:
    """A plot of every evaluation.

    Attributes:
        name: of its files, without suffix.
        draw: draws it into a PNG file and an SVG file beside it; draws nothing where there is nothing to show.
        section: the section of the report that shows it; None: the report does not.
        alt: what it shows, for readers who cannot see it.
    """

    name: str
    draw: Callable[[Evaluated, Path], object]
    section: Section | None
    alt: str


_PLOTS: dict[str, EvaluationPlot] = {}


def evaluation_plot(
    name: str, *, section: Section | None = None, alt: str = ""
) -> Callable[[Callable[[Evaluated, Path], object]], Callable[[Evaluated, Path], object]]:
    """Registers a function as a plot of every evaluation; see `EvaluationPlot` for the arguments.

    Example:
        @evaluation_plot("entropy", section="results", alt="how undecided the model is")
        def _entropy(evaluated: Evaluated, path: Path) -> None: ...
    """

    def register(draw: Callable[[Evaluated, Path], object]) -> Callable[[Evaluated, Path], object]:
        assert name not in _PLOTS, f"two evaluation plots are called {name}"
        _PLOTS[name] = EvaluationPlot(name, draw, section, alt)
        return draw

    return register


def evaluation_plots() -> tuple[EvaluationPlot, ...]:
    """Returns all plots of an evaluation, in the order of their files' names."""
    import_modules("kcv.reporting.plots")
    return tuple(_PLOTS.values())
