"""Plots of a classifier, as PNG and SVG files: the only place that draws with matplotlib."""

from __future__ import annotations

from kcv.plots.confusion import confusion_matrix
from kcv.plots.learning import learning_curves
from kcv.plots.reliability import reliability_diagram
from kcv.plots.roc import roc_curves

__all__ = ["confusion_matrix", "learning_curves", "reliability_diagram", "roc_curves"]
