"""Reports the most confident mistakes of a model, as rows and as a grid of images with heat maps."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kcv.common.files import write_json
from kcv.common.untrusted import refusing
from kcv.errors import ArtifactError, UsageError
from kcv.reporting import plots
from kcv.saliency.explainer import Explainer

if TYPE_CHECKING:
    import keras

    from kcv.data.dataset import Images

MOST_LISTED = 100
MOST_DRAWN = 12
_METHOD = "gradcam"


def most_confident(
    labels: NDArray[np.integer[Any]],
    probabilities: NDArray[np.floating[Any]],
    class_names: Sequence[str],
    names: Sequence[str],
    most: int = MOST_LISTED,
) -> list[dict[str, Any]]:
    """Returns a model's most confident mistakes, the most confident first.

    Args:
        labels: class indices, integer [n].
        probabilities: [n, classes].
        class_names: the classes, in order.
        names: display names of the images, [n].
        most: maximum number of mistakes.

    Returns:
        `index`, the image's index in the split; `image`, its name; `true` and `predicted`, class names;
        `confidence`, the probability of the predicted class, and `probability_of_true`; and `suspected_label_error`,
        whether the label itself is in doubt: the model is as confident in another class as it is, on average, for
        images labelled as that class (confident learning: Northcutt et al., JAIR 70, 2021).
    """
    predicted = probabilities.argmax(axis=1)
    confidence = probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    order = wrong[np.argsort(-confidence[wrong], kind="stable")][:most]
    # A class without images has no such mean, so no label is doubted in favour of it.
    usual = {
        c: probabilities[labels == c, c].mean() if (labels == c).any() else np.inf for c in np.unique(predicted[order])
    }
    return [
        {
            "index": int(i),
            "picture": names[int(i)],
            "true": class_names[labels[i]],
            "predicted": class_names[predicted[i]],
            "confidence": float(confidence[i]),
            "probability_of_true": float(probabilities[i, labels[i]]),
            "suspected_label_error": bool(confidence[i] >= usual[predicted[i]]),
        }
        for i in order
    ]


def write_mistakes(
    folder: Path, images: Images, probabilities: NDArray[np.float64], class_names: Sequence[str]
) -> list[dict[str, Any]]:
    """Writes `mistakes.json`: the number of misclassified images, and the most confident ones.

    Args:
        folder: the output folder; created if missing.
        images: the split.
        probabilities: float64 [n, classes] of the split.
        class_names: the classes, in order.

    Returns:
        The rows of the file, as returned by `most_confident`.

    Raises:
        OutputError: the folder is not writable.
    """
    rows = most_confident(images.labels, probabilities, class_names, images.names)
    wrong = int((probabilities.argmax(axis=1) != images.labels).sum())
    write_json(folder / "mistakes.json", {"pictures": len(images), "wrong": wrong, "mistakes": rows})
    return rows


def draw_misclassified(
    path: Path,
    rows: Sequence[dict[str, Any]],
    model: keras.Model | None,
    images: Images,
    class_names: Sequence[str],
    *,
    file: Path | None = None,
) -> None:
    """Draws the first mistakes with their heat maps, as PNG and SVG.

    Args:
        path: the PNG file, overwritten if it exists.
        rows: at least one, as returned by `most_confident`; the first 12 are shown.
        model: provides the heat maps of the predicted classes; None, or one without a layer with height and width:
            there are none.
        images: the split.
        class_names: the classes, in order.
        file: the model file, if it may be untrusted: errors while drawing its heat maps are reported as its fault.

    Raises:
        ArtifactError: the model of a file cannot be explained.
        OutputError: a file cannot be written.
    """
    shown = rows[:MOST_DRAWN]
    pixels = np.stack([images.read(row["index"]) for row in shown])
    place = {name: i for i, name in enumerate(class_names)}
    positions = [place[row["predicted"]] for row in shown]
    maps = np.zeros(pixels.shape[:3], np.float32)
    if model is not None:
        # A network without feature maps, such as one with only dense layers, has no heat maps.
        # This differentiates the model for the first time.
        with (
            suppress(UsageError),
            refusing(file, ArtifactError, "cannot be explained") if file else nullcontext(),
        ):
            done = Explainer(model).explain(pixels, classes=positions, methods=[_METHOD])
            maps = done.maps[_METHOD].cpu().numpy()
    titles = [f"{plots.short(row['true'])} → {plots.title_of(row['predicted'], row['confidence'])}" for row in shown]
    plots.save_gradcam_grid(pixels, maps, titles, path, note="true → predicted, confidence")
