"""Prediction sets: the classes of an image that hold the right one with a requested probability.

Split conformal prediction with the score of Sadinle, Lei and Wasserman (Least ambiguous set-valued classifiers with
bounded error levels, JASA 114, 2019, arXiv:1609.00451): one minus the probability of the right class. The promise holds
for new images that are drawn like those it was fitted to, on average over all of them, whatever the model and without
any assumption about its probabilities (Vovk, Gammerman and Shafer 2005). Decision 027 says why this score.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from kcv.common.untrusted import parse
from kcv.errors import ArtifactError, DataError
from kcv.metrics.significance import wilson_interval


class PredictionSets(BaseModel):
    """Which classes belong to the set of an image.

    Attributes:
        wanted_coverage: the requested fraction of sets that hold the right class (0-1).
        least: the probability (0-1) from which on a class belongs to a set.
        images: number of images it was fitted on.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)

    wanted_coverage: float = Field(gt=0, lt=1)
    least: float = Field(ge=0, le=1)
    images: int = Field(ge=1, le=10**12)

    def members(self, probabilities: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
        """Returns which classes are in the set of each image, bool of the same shape.

        The likeliest class always is, so that no set is empty; this can only raise the coverage.

        Args:
            probabilities: calibrated, [n, classes] or [classes]; compared in float32, as files and answers hold them.
        """
        # An array, because the float of a file and a scalar of float32 would be compared in another precision.
        inside: NDArray[np.bool_] = probabilities.astype(np.float32) >= np.asarray(self.least, np.float32)
        np.put_along_axis(inside, probabilities.argmax(axis=-1, keepdims=True), True, axis=-1)
        return inside

    def names(self, scores: NDArray[np.floating[Any]], class_names: Sequence[str]) -> list[str]:
        """Returns the set of one image, most likely class first.

        Args:
            scores: its calibrated probabilities, [classes].
            class_names: the class names in their order.
        """
        inside = self.members(scores)
        return [class_names[at] for at in np.argsort(-scores, kind="stable")[: int(inside.sum())]]

    def describe(self) -> str:
        """Returns a few words."""
        return f"sets for {100 * self.wanted_coverage:g}%: classes of probability {self.least:.4g} and above"

    def to_text(self) -> str:
        """Returns it as one line of JSON."""
        return self.model_dump_json()

    @classmethod
    def from_text(cls, text: str, origin: str) -> PredictionSets:
        """Reads what `to_text` wrote.

        Args:
            text: the text, from an untrusted file.
            origin: the file's name, for the message.

        Raises:
            ArtifactError: the text is damaged.
        """
        return parse(text.encode(), cls, origin, ArtifactError)


def fewest_images(coverage: float) -> int:
    """Returns how many images a coverage (0-1) needs: with fewer, only the set of all classes could promise it."""
    wanted = Fraction(repr(float(coverage)))
    return math.ceil(wanted / (1 - wanted))


def require_images(coverage: float, n: int) -> None:
    """Raises DataError if `n` validation images are too few for a coverage (0-1)."""
    needed = fewest_images(coverage)
    if n < needed:
        raise DataError(
            f"--coverage: {coverage:g} needs {needed:,} or more validation images, and there are {n:,}; "
            f"{n / (n + 1):.4g} is the most that they can show."
        )


def fit_sets(
    probabilities: NDArray[np.floating[Any]], labels: NDArray[np.integer[Any]], coverage: float
) -> PredictionSets:
    """Finds the probability from which on a class belongs to a set.

    It is that of the right class of the image of rank ceil((n + 1) coverage), ranked from the most probable right class
    down: the quantile of split conformal prediction with its correction for finite n.

    Args:
        probabilities: calibrated, [n, classes], of images that the weights were not trained on.
        labels: class positions, integer [n].
        coverage: the requested fraction of sets that hold the right class, (0-1).

    Raises:
        DataError: there are too few images for that coverage.
    """
    n = len(labels)
    require_images(coverage, n)
    # The decimal number as it was typed: in binary, 20 * 0.95 is more than 19, and the rank would be one too high.
    rank = math.ceil((n + 1) * Fraction(repr(float(coverage))))
    right = np.sort(probabilities[np.arange(n), labels].astype(np.float32))
    return PredictionSets(wanted_coverage=float(coverage), least=float(right[n - rank]), images=n)


def measure_sets(
    sets: PredictionSets,
    labels: NDArray[np.integer[Any]],
    probabilities: NDArray[np.floating[Any]],
    class_names: Sequence[str],
) -> dict[str, Any]:
    """Measures prediction sets on a split.

    Args:
        sets: which classes belong to a set.
        labels: class positions, integer [n], n >= 1.
        probabilities: calibrated, [n, classes].
        class_names: class names in the order of the columns.

    Returns:
        `wanted_coverage` and `least`, those of `sets`; `coverage`, the fraction of the images whose set holds the right
        class, and `coverage_ci95`, [low, high]; `mean_size`, in classes; `single`, the fraction of sets of one
        class; `largest`, the most classes of a set; `lowest_class` and `lowest_class_coverage`, the class of the images
        that are covered least: the promise is for all images together, not for each class.
    """
    inside = sets.members(probabilities)
    covered, sizes = inside[np.arange(len(labels)), labels], inside.sum(axis=1)
    counts = np.bincount(labels, minlength=len(class_names))
    hits = np.bincount(labels, weights=covered, minlength=len(class_names))
    shares = np.divide(hits, counts, out=np.full(len(class_names), 2.0), where=counts > 0)
    lowest = int(shares.argmin())
    return {
        "wanted_coverage": sets.wanted_coverage,
        "least": sets.least,
        "coverage": float(covered.mean()),
        "coverage_ci95": list(wilson_interval(int(covered.sum()), len(labels))),
        "mean_size": float(sizes.mean()),
        "single": float((sizes == 1).mean()),
        "largest": int(sizes.max()),
        "lowest_class": class_names[lowest],
        "lowest_class_coverage": float(shares[lowest]),
    }
