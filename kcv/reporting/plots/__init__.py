"""Plots of a classifier, as PNG and SVG files: the only package that uses matplotlib."""

from __future__ import annotations

from kcv.reporting.plots.confusion import confusion_matrix
from kcv.reporting.plots.heatmaps import MOST_IN_GRID, save_gradcam_grid, save_overlay, save_side_by_side, title_of
from kcv.reporting.plots.learning import compared_curves, learning_curves
from kcv.reporting.plots.reliability import reliability_diagram
from kcv.reporting.plots.roc import roc_curves
from kcv.reporting.plots.style import short

__all__ = [
    "MOST_IN_GRID", "compared_curves", "confusion_matrix", "learning_curves", "reliability_diagram", "roc_curves",
    "save_gradcam_grid", "save_overlay", "save_side_by_side", "short", "title_of",
]  # fmt: skip
