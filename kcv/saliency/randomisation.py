"""Checks that heat maps depend on what a model has learned: they must change when its weights are randomised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from kcv.inference.outputs import model_device
from kcv.saliency.explainer import Explainer
from kcv.saliency.methods import METHODS

if TYPE_CHECKING:
    import keras


def randomisation(
    model: keras.Model,
    pixels: NDArray[np.uint8],
    labels: NDArray[np.integer] | None = None,
    *,
    methods: Sequence[str] = tuple(METHODS),
    layer: str | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> dict[str, dict[str, float | None]]:
    """Compares the maps of a model with those of the same network with random weights.

    This is the model parameter randomisation test (Adebayo et al. 2018, "Sanity Checks for Saliency Maps",
    arXiv:1810.03292, section 3) with all layers randomised at once. If the maps of a method hardly change (a rank
    correlation near 1), they depict the image, not the model.

    Args:
        model: functional; maps RGB 0-255 [batch, size, size, 3] to logits.
        pixels: uint8 [n, size, size, 3], at the model's size; at least one image.
        labels: the classes to explain, integer [n]; by default the most probable class of each image according to the
            trained model, for both models.
        methods: names from `kcv.saliency.methods.METHODS`.
        layer: the layer to explain; by default the last with height and width.
        batch_size: images computed at once.
        seed: seed of the random weights.

    Returns:
        By method, `rank_correlation`: Spearman's, the mean over the images whose two maps both vary (None if there are
        none), and `compared`: the fraction of such images. Plain values.

    Raises:
        UsageError: the model cannot be explained, or has no such layer.
    """
    trained, forgotten = Explainer(model, layer=layer), Explainer(with_random_weights(model, seed), layer=layer)
    found: dict[str, list[float | None]] = {method: [] for method in methods}
    for start in range(0, len(pixels), batch_size):
        batch = pixels[start : start + batch_size]
        given = None if labels is None else torch.from_numpy(labels[start : start + batch_size].astype(np.int64))
        ours = trained.explain(batch, classes=given, methods=methods)
        theirs = forgotten.explain(batch, classes=ours.classes, methods=methods)
        for method in methods:
            pairs = zip(ours.maps[method].cpu().numpy(), theirs.maps[method].cpu().numpy(), strict=True)
            found[method] += [rank_correlation(a, b) for a, b in pairs]
    result: dict[str, dict[str, float | None]] = {}
    for method, values in found.items():
        known = [value for value in values if value is not None]
        mean = float(np.mean(known)) if known else None
        result[method] = {"rank_correlation": mean, "compared": len(known) / len(values)}
    return result


def with_random_weights(model: keras.Model, seed: int) -> keras.Model:
    """Returns an untrained copy of a functional model, on the same device.

    Kernels are normal noise with the standard deviation of the model's own, so that the signal does not vanish from
    layer to layer; biases and normalisation are those of a new layer. Global generators advance only by what Keras
    draws for the initial weights.
    """
    import keras

    with keras.device(str(model_device(model))):
        copy = keras.models.clone_model(model)
    generator = np.random.default_rng(seed)
    for learned, variable in zip(model.get_weights(), copy.weights, strict=True):
        if learned.ndim > 1:
            variable.assign(generator.normal(0.0, learned.std(), learned.shape).astype(learned.dtype))
    return copy


def rank_correlation(a: NDArray[np.floating], b: NDArray[np.floating]) -> float | None:
    """Returns Spearman's correlation of two maps, ties at their mean rank; None if either map does not vary."""
    from scipy import stats

    if not np.ptp(a) or not np.ptp(b):
        return None
    return float(stats.spearmanr(a.ravel(), b.ravel()).statistic)
