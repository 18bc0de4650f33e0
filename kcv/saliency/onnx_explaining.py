"""Explains an ONNX model from the outputs that `kcv export --heatmaps` adds, without torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kcv.errors import UsageError
from kcv.inference.onnx_model import FEATURES, OnnxModel
from kcv.saliency.explanation import Explanation

METHOD = "gradcam"
"""The method that needs no gradients here; see `kcv.inference.class_maps`."""


class OnnxExplaining:
    """Explains batches of images by Grad-CAM.

    Args:
        model: a model with heat maps.
        method: the method that was asked for.
        layer: the layer that was asked for; None for the last one with height and width.

    Raises:
        UsageError: the file has no heat maps, or not these.
    """

    def __init__(self, model: OnnxModel, method: str = METHOD, layer: str | None = None) -> None:
        if not model.has_heatmaps:
            raise UsageError(f"{model.path}: has no heat maps; `kcv export --heatmaps` adds them.")
        if method != METHOD or layer is not None:
            allowed = f"an ONNX file has the maps of {METHOD} at the last layer"
            raise UsageError(f"{model.path}: {allowed}; explain the Keras file.")
        self._model = model

    @property
    def note(self) -> str:
        """The method and the layer, for a heading."""
        return f"{METHOD} at {FEATURES}"

    def explain(self, pixels: NDArray[np.uint8], position: int | None) -> Explanation:
        """Explains one batch; see `Explaining`."""
        done = self._model.explain(pixels, position)
        chosen = done.probabilities[np.arange(len(pixels)), done.classes]
        return Explanation(done.maps, done.classes, chosen.astype(np.float64))
