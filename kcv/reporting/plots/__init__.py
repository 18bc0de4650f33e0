"""Plots of a classifier, as PNG and SVG files: the only package that uses matplotlib."""

from __future__ import annotations

from kcv.reporting.plots.confusion import confusion_matrix
from kcv.reporting.plots.heatmaps import MOST_IN_GRID, save_gradcam_grid, save_overlay, save_side_by_side, title_of
from kcv.reporting.plots.learning import compared_curves, learning_curves
from kcv.reporting.plots.rates import learning_rate_range
from kcv.reporting.plots.reliability import reliability_diagram
from kcv.reporting.plots.roc import roc_curves
from kcv.reporting.plots.search import importance_bars, parallel_coordinates, trial_courses
from kcv.reporting.plots.style import short

__all__ = [
    "MOST_IN_GRID", "compared_curves", "confusion_matrix", "importance_bars", "learning_curves",
    "learning_rate_range", "parallel_coordinates", "reliability_diagram", "roc_curves", "save_gradcam_grid",
    "save_overlay", "save_side_by_side", "short", "title_of", "trial_courses",
]  # fmt: skip
