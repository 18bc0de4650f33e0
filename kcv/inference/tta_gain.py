"""What test-time augmentation brings and costs on a split: the difference on the same images, and the speeds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kcv.inference.keras_model import LoadedModel
from kcv.metrics.significance import pairs


def timed(model: LoadedModel, run: Callable[[LoadedModel], NDArray[np.float32]]) -> tuple[NDArray[np.float32], float]:
    """Returns the logits of a split and how many images per second they took, with reading, without preparation.

    Args:
        model: the model.
        run: computes its logits, float32 [n, classes].
    """
    _ = model.forward  # made here, and not while the time is taken
    began = time.perf_counter()
    logits = run(model)
    return logits, len(logits) / max(1e-9, time.perf_counter() - began)


def gain(
    model: LoadedModel,
    labels: NDArray[np.int64],
    logits: tuple[NDArray[np.float32], NDArray[np.float32]],
    speeds: tuple[float, float],
) -> dict[str, Any]:
    """Compares a model with test-time augmentation with the same model without it.

    Args:
        model: the model, with its augmentation.
        labels: class positions, int64 [n].
        logits: with and without it, float32 [n, classes].
        speeds: images per second, with and without it.

    Returns:
        `name` and `views` of the augmentation; `images_per_second` and `plain_images_per_second`; `plain_accuracy`;
        `difference_points`, the accuracy with it less that without it, with `difference_ci95_points` and `p_value`
        of McNemar's exact test on the same images; and `differ`, whether that is beyond chance.
    """
    assert model.tta is not None
    views, plain = (rows.argmax(axis=1) == labels for rows in logits)
    (found,) = pairs({"views": views, "plain": plain})
    kept = ("difference_points", "difference_ci95_points", "p_value", "differ")
    compared = found.to_dict()
    return {
        "name": model.tta.name,
        "views": len(model.tta.views(model.image_size)),
        "images_per_second": speeds[0],
        "plain_images_per_second": speeds[1],
        "plain_accuracy": float(plain.mean()),
        **{key: compared[key] for key in kept},
    }
