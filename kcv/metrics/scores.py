"""Metrics of one split: of the predicted classes, of their ranking, and of the probabilities."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


def accuracy(labels: NDArray[np.integer[Any]], scores: NDArray[np.floating[Any]]) -> float:
    """Returns the fraction of rows (0-1) in which the largest score, [n, classes], is that of the label, [n]."""
    return float((scores.argmax(axis=1) == labels).mean())


@dataclass(frozen=True)
class Confusion:
    """A sparse confusion matrix: with many classes, nearly all cells are empty.

    Attributes:
        true: rows of the non-empty cells, int64 [cells], ascending.
        predicted: their columns, int64 [cells], ascending within a row.
        counts: their numbers of images, int64 [cells], all positive.
        classes: number of classes.
    """

    true: NDArray[np.int64]
    predicted: NDArray[np.int64]
    counts: NDArray[np.int64]
    classes: int

    @classmethod
    def of_matrix(cls, matrix: NDArray[np.integer[Any]]) -> Confusion:
        """Returns the sparse form of a matrix [classes, classes]."""
        true, predicted = np.nonzero(matrix)
        return cls(true, predicted, matrix[true, predicted].astype(np.int64), len(matrix))

    def matrix(self) -> NDArray[np.int64]:
        """Returns the full matrix, int64 [classes, classes], with true classes in rows."""
        whole = np.zeros((self.classes, self.classes), np.int64)
        whole[self.true, self.predicted] = self.counts
        return whole

    @property
    def support(self) -> NDArray[np.int64]:
        """The number of images per true class, int64 [classes]."""
        return np.bincount(self.true, self.counts, self.classes).astype(np.int64)


def confusion(labels: NDArray[np.integer[Any]], predicted: NDArray[np.integer[Any]], classes: int) -> Confusion:
    """Counts images by true and predicted class; keeps only the non-empty cells."""
    cells, counts = np.unique(labels.astype(np.int64) * classes + predicted, return_counts=True)
    return Confusion(cells // classes, cells % classes, counts.astype(np.int64), classes)


def confusion_matrix(
    labels: NDArray[np.integer[Any]], predicted: NDArray[np.integer[Any]], classes: int
) -> NDArray[np.int64]:
    """Counts images by true class (row) and predicted class (column): int64 [classes, classes]."""
    from sklearn import metrics

    matrix: NDArray[np.int64] = metrics.confusion_matrix(labels, predicted, labels=np.arange(classes))
    return matrix.astype(np.int64)


def class_scores(
    labels: NDArray[np.integer[Any]], predicted: NDArray[np.integer[Any]], classes: int
) -> list[dict[str, float | int | None]]:
    """Returns precision, recall, F1 and support per class.

    None marks undefined values: the precision of a class that was never predicted, the recall of a class without
    images, and the F1 of a class to which both apply.
    """
    from sklearn import metrics

    columns = metrics.precision_recall_fscore_support(
        labels, predicted, labels=np.arange(classes), average=None, zero_division=np.nan
    )
    return [
        {"precision": _defined(precision), "recall": _defined(recall), "f1": _defined(f1), "support": int(support)}
        for precision, recall, f1, support in zip(*columns, strict=True)
    ]


def confused_pairs(
    matrix: NDArray[np.int64] | Confusion, class_names: Sequence[str], most: int = 10
) -> list[dict[str, Any]]:
    """Returns the most frequent confusions in descending order.

    Args:
        matrix: counts, int [classes, classes], with true classes in rows; or its sparse form.
        class_names: class names in order.
        most: largest number of pairs returned.

    Returns:
        `true`, `predicted`, `count`, and `share`, the fraction of the true class (0-1).
    """
    cells = matrix if isinstance(matrix, Confusion) else Confusion.of_matrix(matrix)
    wrong = np.flatnonzero(cells.true != cells.predicted)
    worst = wrong[np.argsort(-cells.counts[wrong], kind="stable")[:most]]
    support = cells.support
    return [
        {
            "true": class_names[cells.true[i]],
            "predicted": class_names[cells.predicted[i]],
            "count": int(cells.counts[i]),
            "share": float(cells.counts[i] / support[cells.true[i]]),
        }
        for i in worst
    ]


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


_FEW = 8  # up to this many images of a class, counting is faster than sorting


def roc_aucs(labels: NDArray[np.integer[Any]], probabilities: NDArray[np.floating[Any]]) -> list[float | None]:
    """Returns the area under the ROC curve per class, the class against all others.

    None for a class with no images or all images, and for one whose probabilities contain NaN.
    """
    return areas_and_precisions(labels, probabilities)[0]


def average_precisions(
    labels: NDArray[np.integer[Any]], probabilities: NDArray[np.floating[Any]]
) -> list[float | None]:
    """Returns the average precision per class (the area under its precision-recall curve, as a sum of steps).

    None in the same cases as in `roc_aucs`.
    """
    return areas_and_precisions(labels, probabilities)[1]


def areas_and_precisions(
    labels: NDArray[np.integer[Any]], probabilities: NDArray[np.floating[Any]]
) -> tuple[list[float | None], list[float | None]]:
    """Returns the results of `roc_aucs` and `average_precisions`, which need the same counts.

    scikit-learn computes them from whole curves, one class at a time, which takes minutes with thousands of classes.
    Here, only the images of the class are ranked among all images.
    """
    n, classes = probabilities.shape
    areas: list[float | None] = [None] * classes
    precisions: list[float | None] = [None] * classes
    by_class = np.argsort(labels, kind="stable")
    ends = np.cumsum(np.bincount(labels, minlength=classes))
    for block in row_blocks(classes, n):
        columns = np.ascontiguousarray(probabilities[:, block].T)
        finite = np.logical_and.reduce(np.isfinite(columns), axis=1)
        for c, scores, sound in zip(range(block.start, block.stop), columns, finite, strict=True):
            mine = by_class[(ends[c - 1] if c else 0) : ends[c]]
            if sound and 0 < len(mine) < n:
                areas[c], precisions[c] = _ranked(np.sort(scores[mine]), scores)
    return areas, precisions


def _ranked(positive: NDArray[np.floating[Any]], scores: NDArray[np.floating[Any]]) -> tuple[float, float]:
    """Returns ROC AUC and average precision from the sorted scores of the class's images and all scores."""
    p, n = len(positive), len(scores)
    if p <= _FEW:
        below = np.array([np.count_nonzero(scores < score) for score in positive])
        upto = np.array([np.count_nonzero(scores <= score) for score in positive])
    else:
        ranked = np.sort(scores)
        below = np.searchsorted(ranked, positive, side="left")
        upto = np.searchsorted(ranked, positive, side="right")
    own_below = np.searchsorted(positive, positive, side="left")
    own_upto = np.searchsorted(positive, positive, side="right")
    # Twice the number of other images with a lower score, plus the number of those with the same score.
    won = (below - own_below) + (upto - own_upto)
    area = float(won.sum()) / (2 * p * (n - p))
    return area, float(np.mean((p - own_below) / (n - below)))


def roc_curve(
    positive: NDArray[np.bool_], scores: NDArray[np.floating[Any]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns (false positive rate, true positive rate) at every threshold, from (0, 0) to (1, 1).

    Args:
        positive: whether each image belongs to the class, bool [n]; both values must occur.
        scores: scores, [n]; higher means more likely to belong to the class.
    """
    from sklearn import metrics

    false, true, _ = metrics.roc_curve(positive, scores, drop_intermediate=False)
    return false, true


def top_k_accuracy(labels: NDArray[np.integer[Any]], probabilities: NDArray[np.floating[Any]], k: int) -> float | None:
    """Returns the fraction of images (0-1) with their class among the `k` most likely; None if there is any NaN."""
    if not np.isfinite(probabilities).all():
        return None
    # Classes of equal probability are ranked by position, as in predictions.
    hits = 0
    before = np.arange(probabilities.shape[1])
    for rows in row_blocks(*probabilities.shape):
        part, mine = probabilities[rows], labels[rows, None]
        own = np.take_along_axis(part, mine, axis=1)
        ahead = (part > own).sum(axis=1) + ((part == own) & (before < mine)).sum(axis=1)
        hits += int((ahead < k).sum())
    return hits / len(labels)


ECE_BINS = 15


def log_loss(labels: NDArray[np.integer[Any]], probabilities: NDArray[np.floating[Any]]) -> float | None:
    """Returns the mean negative log of the true class's probability, in nats; None if it is not finite.

    A probability of 0 counts as 2.2e-16 (as in scikit-learn), so that one image cannot make the mean infinite.
    """
    true = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    # log(1 / p) is exactly 0 for p = 1, unlike -log(p), which is -0, and scikit-learn's clipping at 1 - 2.2e-16.
    loss = float(np.mean(np.log(1 / np.maximum(true, np.finfo(np.float64).eps))))
    return loss if math.isfinite(loss) else None


def brier_score(labels: NDArray[np.integer[Any]], probabilities: NDArray[np.floating[Any]]) -> float | None:
    """Returns the mean squared distance between probabilities and one-hot labels, 0 to 2; None if it is not finite.

    Brier's original form (Monthly Weather Review 78, 1950): a sum over all classes, even if there are only two.
    """
    # scikit-learn supports several classes only from version 1.7.
    sums = []
    for rows in row_blocks(*probabilities.shape):
        distance = probabilities[rows].astype(np.float64)
        distance[np.arange(len(distance)), labels[rows]] -= 1
        sums.append(np.sum(distance**2, axis=1))
    score = float(np.mean(np.concatenate(sums)))
    return score if math.isfinite(score) else None


def reliability(
    labels: NDArray[np.integer[Any]], probabilities: NDArray[np.floating[Any]], bins: int = ECE_BINS
) -> list[dict[str, float | int | None]]:
    """Groups images into equally wide bins by confidence, the probability of the predicted class.

    Args:
        labels: integer [n].
        probabilities: [n, classes].
        bins: number of bins; each excludes its lower end.

    Returns:
        Per bin: `low` and `high`, its ends; `n`, the number of images; their mean `confidence` and their `accuracy`
        (both 0-1, None without images). The list is empty if the probabilities contain NaN.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    if not np.isfinite(confidence).all():
        return []
    right = (probabilities.argmax(axis=1) == labels).astype(np.float64)
    index = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    counts = np.bincount(index, minlength=bins)
    sums = [np.bincount(index, weights=values, minlength=bins) for values in (confidence, right)]
    return [
        {
            "low": i / bins,
            "high": (i + 1) / bins,
            "n": int(counts[i]),
            "confidence": float(sums[0][i] / counts[i]) if counts[i] else None,
            "accuracy": float(sums[1][i] / counts[i]) if counts[i] else None,
        }
        for i in range(bins)
    ]


def expected_calibration_error(
    labels: NDArray[np.integer[Any]], probabilities: NDArray[np.floating[Any]], bins: int = ECE_BINS
) -> float | None:
    """Returns the expected calibration error, 0 to 1; None if the probabilities contain NaN.

    The mean of |accuracy - mean confidence| over the bins of `reliability`, weighted by their number of images (Guo et
    al., On Calibration of Modern Neural Networks, ICML 2017).
    """
    filled = [row for row in reliability(labels, probabilities, bins) if row["n"]]
    if not filled:
        return None
    gaps = [(row["n"] or 0) * abs((row["accuracy"] or 0.0) - (row["confidence"] or 0.0)) for row in filled]
    return math.fsum(gaps) / len(labels)


_CELLS = 2**22  # of a block, which has at least one row


def row_blocks(rows: int, columns: int) -> Iterator[slice]:
    """Yields slices that cover all rows of a table in order, so that each block is of bounded size."""
    step = max(1, _CELLS // max(columns, 1))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))
