"""How often intervals of an out-of-fold accuracy hold the true one: small sets of digits, drawn again and again.

    python tests/support/folded_digits.py

prints the table of docs/decisions/026-folds.md.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.stats import t

from kcv.data.folds import assign
from kcv.metrics.folds import out_of_fold_interval
from kcv.metrics.significance import wilson_interval

PER_CLASS = 15
REPETITIONS = 200


def coverage(model: Callable[[], Any], folds: int, copied: int) -> dict[str, tuple[float, float, float]]:
    """Draws 15 images per class, and measures a classifier in folds; the truth is its accuracy on the 1,647 others.

    Args:
        model: returns an untrained classifier of scikit-learn, which stands in for a network.
        folds: number of folds.
        copied: how many of the images are there twice.

    Returns:
        By interval (`kcv`; `Wilson`, of the pooled predictions; `t`, Nadeau and Bengio's over the folds): the fraction
        of repetitions in which it holds the accuracy of the final model; the same of the mean accuracy of the models of
        the folds; and its mean width.
    """
    from sklearn.datasets import load_digits

    pixels, digits = load_digits(return_X_y=True)
    found: dict[str, list[tuple[bool, bool, float]]] = {"kcv": [], "Wilson": [], "t": []}
    for repetition in range(REPETITIONS):
        rng = np.random.default_rng(repetition)
        order = rng.permutation(len(digits))
        own = np.concatenate([order[digits[order] == digit][:PER_CLASS] for digit in range(10)])
        rest = np.setdiff1d(order, own)
        groups = np.concatenate([own, rng.choice(own, copied, replace=False)])
        images, labels = pixels[groups], digits[groups]
        assigned = assign(labels, groups, folds, seed=repetition)
        right, of_folds = np.zeros(len(labels), np.bool_), []
        for fold in range(folds):
            held = assigned == fold
            fitted = model().fit(images[~held], labels[~held])
            right[held] = fitted.predict(images[held]) == labels[held]
            of_folds.append(fitted.score(pixels[rest], digits[rest]))
        final, mean = model().fit(images, labels).score(pixels[rest], digits[rest]), float(np.mean(of_folds))
        each = [right[assigned == fold].mean() for fold in range(folds)]
        half = t.ppf(0.975, folds - 1) * math.sqrt((1 / folds + 1 / (folds - 1)) * np.var(each, ddof=1))
        intervals = {
            "kcv": out_of_fold_interval(right, groups, folds),
            "Wilson": wilson_interval(int(right.sum()), len(right)),
            "t": (np.mean(each) - half, np.mean(each) + half),
        }
        for name, (low, high) in intervals.items():
            found[name].append((low <= final <= high, low <= mean <= high, float(high - low)))
    means = {name: np.mean(rows, axis=0) for name, rows in found.items()}
    return {name: (float(one[0]), float(one[1]), float(one[2])) for name, one in means.items()}


if __name__ == "__main__":
    from sklearn.linear_model import RidgeClassifier
    from sklearn.neighbors import KNeighborsClassifier, NearestCentroid

    warnings.simplefilter("ignore")  # the border of a digit is blank
    models = {
        "ridge": lambda: RidgeClassifier(100.0),
        "1-NN": lambda: KNeighborsClassifier(1),
        "centroid": NearestCentroid,
    }
    for name, make in models.items():
        for number, twice in ((5, 0), (5, 40), (10, 0)):
            shown = [
                f"{kind}: {final:.1%} final, {mean:.1%} folds, width {100 * width:.1f}"
                for kind, (final, mean, width) in coverage(make, number, twice).items()
            ]
            print(f"{name}, {number} folds, {twice} copies: {'; '.join(shown)}", flush=True)
