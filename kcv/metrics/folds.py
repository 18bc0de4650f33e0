"""The accuracy that cross-validation estimates, with an interval that knows about folds and copies."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kcv.metrics.significance import wilson_of_fraction


def out_of_fold_interval(right: NDArray[np.bool_], groups: NDArray[np.integer[Any]], folds: int) -> tuple[float, float]:
    """Returns the 95% interval (low, high) of the accuracy of a model that is trained like those of the folds.

    It is Wilson's interval of the pooled predictions, for fewer images than there are, for two reasons:

    - Images of a group (near-duplicates) are right or wrong together, and say little more than one of them. Their
      number is divided by the design effect: the variance of the mean with whole groups drawn, over that with single
      images drawn (Kish, Survey Sampling, 1965; in Wilson's interval: Korn and Graubard, Survey Methodology 24, 1998).
    - The models of the folds share most of their training images, so their accuracies are correlated, and the model in
      use is yet another one. With the correlation that Nadeau and Bengio propose (Machine Learning 52, 2003), the
      fraction of the images that a fold holds out, the variance of the mean of K folds grows by 1 + (K - 1) / K.

    docs/decisions/026-folds.md says how often it holds the accuracy on further images.

    Args:
        right: whether each image is classified correctly, by a model that was trained without its fold, bool [n].
        groups: the group of each image, integer [n].
        folds: number of folds, at least 2.
    """
    n, p = len(right), float(right.mean())
    _, place, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if 0 < p < 1 and len(sizes) > 1:
        sums = np.bincount(place, weights=right - p)
        grouped = len(sizes) / (len(sizes) - 1) * float((sums**2).sum()) / n**2
        effect = grouped / (p * (1 - p) / n)
    else:  # no spread to measure: as if images of a group were always right or wrong together
        effect = float((sizes**2).sum()) / n
    return wilson_of_fraction(p, n / (max(1.0, effect) * (1 + (folds - 1) / folds)))
