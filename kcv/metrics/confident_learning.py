"""Wrong labels, found by confident learning (Northcutt, Jiang and Chuang, JAIR 70, 2021).

It needs the probabilities of a model that was not trained on the images, such as out-of-fold predictions. How sure a
model usually is of a class, t_j, is the mean probability of class j over the images labelled j. An image labelled i
counts as a j if its probability of j is at least t_j (of several such classes, the likeliest). These counts, the
confident joint, are scaled to the number of images per label. The result estimates how many images labelled i are in
truth a j, and as many of them, those with the largest margins of j over i, are suspects.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kcv.metrics.scores import Confusion, confusion


@dataclass(frozen=True)
class LabelErrors:
    """The images whose labels are probably wrong.

    Attributes:
        positions: of the suspects, int64 [suspects], most likely first.
        suggested: the class that each of them looks like, int64 [suspects].
        estimated: how many labels would be wrong if the model made no mistakes of its own; it does, so they are fewer.
    """

    positions: NDArray[np.int64]
    suggested: NDArray[np.int64]
    estimated: float


def usual_confidence(labels: NDArray[np.integer[Any]], probabilities: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Returns the mean probability of each class over the images with its label, [classes]; inf for one without."""
    classes = probabilities.shape[1]
    own = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    counts = np.bincount(labels, minlength=classes)
    sums = np.bincount(labels, weights=own, minlength=classes)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)


def confident_classes(labels: NDArray[np.integer[Any]], probabilities: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """Returns the class that each image counts as, int64 [n]; -1 for one of which the model is sure of no class."""
    sure = probabilities >= usual_confidence(labels, probabilities)
    found: NDArray[np.int64] = np.where(sure, probabilities, -1.0).argmax(axis=1)
    return np.where(sure.any(axis=1), found, -1)


def confident_joint(
    labels: NDArray[np.integer[Any]], probabilities: NDArray[np.floating[Any]]
) -> tuple[Confusion, NDArray[np.float64]]:
    """Counts images by their label (row) and the class that they count as (column).

    Returns:
        The counts; and the same cells scaled to the number of images with each label, float64 [cells]. A label that
        no image counts for is taken as right, and has no cells.
    """
    classes = probabilities.shape[1]
    counted = confident_classes(labels, probabilities)
    cells = confusion(labels[counted >= 0], counted[counted >= 0], classes)
    scale = np.bincount(labels, minlength=classes) / np.maximum(cells.support, 1)
    return cells, cells.counts * scale[cells.true]


def find_label_errors(labels: NDArray[np.integer[Any]], probabilities: NDArray[np.floating[Any]]) -> LabelErrors:
    """Finds the images whose labels are probably wrong ("prune by noise rate", ranked by self-confidence).

    The image with the lowest probability of its label comes first.

    An image whose label is its likeliest class is never a suspect.

    Args:
        labels: class positions, integer [n], n >= 1.
        probabilities: [n, classes], finite, of a model that was not trained on the images.

    Example:
        >>> found = find_label_errors(labels, probabilities)
        >>> [names[i] for i in found.positions[:10]]
    """
    cells, scaled = confident_joint(labels, probabilities)
    wrong = cells.true != cells.predicted
    chosen = np.zeros(len(labels), np.bool_)
    for row, column, count in zip(cells.true[wrong], cells.predicted[wrong], scaled[wrong], strict=True):
        mine = np.flatnonzero(labels == row)
        over = probabilities[mine, column] - probabilities[mine, row]
        chosen[mine[np.argsort(-over, kind="stable")[: int(count + 0.5)]]] = True
    suspects = np.flatnonzero(chosen & (probabilities.argmax(axis=1) != labels))
    suggested = probabilities[suspects].argmax(axis=1)
    order = np.argsort(probabilities[suspects, labels[suspects]], kind="stable")
    return LabelErrors(suspects[order], suggested[order], float(scaled[wrong].sum()))
