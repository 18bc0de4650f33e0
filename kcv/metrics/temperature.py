"""Calibration: the temperature of the probabilities, the threshold for abstaining, and sets, fitted on validation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, RootModel, StringConstraints

from kcv.common.rows import UNSURE
from kcv.errors import DataError
from kcv.metrics.conformal import PredictionSets, fit_sets

_COLDEST, _HOTTEST = 0.01, 100.0


class Calibration(BaseModel):
    """Turns a model's logits into probabilities and answers.

    Attributes:
        temperature: divisor of the logits before softmax; 1 leaves them unchanged.
        threshold: the confidence (0-1) below which the answer is `UNSURE`; None: the model never abstains.
        wanted_precision: the requested fraction of right answers (0-1); None without a threshold.
        precision: the fraction of right answers on the images it was fitted on (0-1); None without a threshold.
        coverage: the fraction of those images that got an answer (0-1); None without a threshold.
        pictures: number of images it was fitted on.
        sets: which classes belong to the set of an image; None: there are no sets.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    temperature: float = Field(1.0, ge=_COLDEST, le=_HOTTEST)
    threshold: float | None = Field(None, ge=0, le=1)
    wanted_precision: float | None = Field(None, gt=0, le=1)
    precision: float | None = Field(None, ge=0, le=1)
    coverage: float | None = Field(None, ge=0, le=1)
    pictures: int = Field(0, ge=0, le=10**12)
    sets: PredictionSets | None = None

    def probabilities(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        """Returns probabilities, float64 [n, classes]; rows sum to 1."""
        return softmax(logits, self.temperature)

    def of_other_logits(self) -> Calibration:
        """Returns what may be used for logits that it was not fitted to, as of test-time augmentation: without sets."""
        return self.model_copy(update={"sets": None})

    def with_threshold(
        self,
        logits: NDArray[np.float32],
        labels: NDArray[np.integer[Any]],
        precision: float,
        class_names: Sequence[str],
    ) -> Calibration:
        """Adds the lowest threshold at which the requested fraction of the answers is right.

        Args:
            logits: logits of the images that the temperature was fitted to, float32 [n, classes].
            labels: class positions, integer [n].
            precision: the requested fraction of right answers, (0-1].
            class_names: class names of the model.

        Raises:
            DataError: no threshold reaches that precision on these images, or a class has the name `UNSURE`.
        """
        if UNSURE in class_names:
            raise DataError(f"a class is called {UNSURE!r}, the word for no answer; --abstain_precision needs it.")
        probabilities = self.probabilities(logits)
        confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
        threshold = choose_threshold(confidence, right, precision)
        if threshold is None:
            raise DataError(
                f"--abstain_precision: {precision:g} is reached at no threshold on {len(labels):,} images: "
                "the most confident of them are wrong."
            )
        answered = confidence >= threshold
        found = {"threshold": threshold, "wanted_precision": precision, "coverage": float(answered.mean())}
        return Calibration(**{**self.model_dump(), **found, "precision": float(right[answered].mean())})

    def with_sets(self, logits: NDArray[np.float32], labels: NDArray[np.integer[Any]], coverage: float) -> Calibration:
        """Adds prediction sets; see `kcv.metrics.conformal.fit_sets`.

        Args:
            logits: logits of the images that the temperature was fitted to, float32 [n, classes].
            labels: class positions, integer [n].
            coverage: the requested fraction of sets that hold the right class, (0-1).

        Raises:
            DataError: there are too few images for that coverage.
        """
        return self.model_copy(update={"sets": fit_sets(self.probabilities(logits), labels, coverage)})

    def describe(self) -> str:
        """Returns a one-line description."""
        words = f"temperature {self.temperature:.3f}, on {self.pictures:,} validation images"
        if self.sets is not None:
            words += f"; {self.sets.describe()}"
        if self.threshold is None:
            return words
        words += f"; unsure below {self.threshold:.4f}"
        if self.coverage is None or self.precision is None or self.wanted_precision is None:
            return words  # the threshold was not fitted but set by hand
        return (
            f"{words}: {self.coverage:.1%} answered, {self.precision:.2%} of them right (wanted "
            f"{self.wanted_precision:.2%})"
        )


TTA_NAME = r"^(flip|five_crop|[2-9]|[1-5][0-9]|6[0-4])$"
"""The names of test-time augmentations (`kcv.inference.tta`), as a pattern."""


class TtaCalibrations(RootModel[Annotated[dict[Annotated[str, StringConstraints(pattern=TTA_NAME)], Calibration],
                                          Field(max_length=100)]]):  # fmt: skip
    """How logits of test-time augmentations become probabilities, by the name of the augmentation (`--tta`)."""

    model_config = ConfigDict(frozen=True)


def fit(
    logits: NDArray[np.float32], labels: NDArray[np.integer[Any]], *, temperature: float | None = None
) -> Calibration:
    """Fits a temperature to images that the weights were not trained on.

    Args:
        logits: float32 [n, classes], n >= 1.
        labels: class positions, integer [n].
        temperature: a fixed temperature, which is used instead of a fitted one.
    """
    if temperature is None:
        temperature = fit_temperature(logits, labels)
    return Calibration(temperature=temperature, pictures=len(labels))


def fit_temperature(logits: NDArray[np.float32], labels: NDArray[np.integer[Any]]) -> float:
    """Returns the temperature of maximum likelihood (Guo et al., ICML 2017); it does not change any predicted class.

    If all images are classified correctly, there is no maximum: the likelihood grows as the temperature falls. The
    result is then the temperature with a mean confidence of (n + 1) / (n + 2), the value that Laplace's rule of
    succession predicts for the next image.
    """
    from scipy import optimize

    logits = logits.astype(np.float64)
    if not np.isfinite(logits).all():
        return 1.0
    rows = np.arange(len(labels))
    n = len(labels)

    def loss(log_temperature: float) -> float:
        scaled = logits / math.exp(log_temperature)
        highest = scaled.max(axis=1)
        normaliser = highest + np.log(np.exp(scaled - highest[:, None]).sum(axis=1))
        return float(np.mean(normaliser - scaled[rows, labels]))

    def too_confident(log_temperature: float) -> float:
        return float(softmax(logits, math.exp(log_temperature)).max(axis=1).mean()) - (n + 1) / (n + 2)

    ends = (math.log(_COLDEST), math.log(_HOTTEST))
    if (logits.argmax(axis=1) == labels).all():
        gaps = [too_confident(end) for end in ends]
        if gaps[0] <= 0 or gaps[1] >= 0:
            return _COLDEST if gaps[0] <= 0 else _HOTTEST
        return _between(math.exp(optimize.brentq(too_confident, *ends)))
    found = optimize.minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": 1e-6})
    return _between(math.exp(float(found.x)))


def _between(temperature: float) -> float:
    """Clips a temperature to its bounds, which log and exp may exceed by rounding."""
    return min(max(temperature, _COLDEST), _HOTTEST)


def choose_threshold(confidence: NDArray[np.floating[Any]], right: NDArray[np.bool_], precision: float) -> float | None:
    """Returns the lowest threshold at which a fraction of at least `precision` of the answers is right, or None.

    Args:
        confidence: probability of the predicted class, [n].
        right: whether the predicted class is the true one, bool [n].
        precision: the requested fraction of right answers, 0-1.
    """
    order = np.argsort(-confidence, kind="stable")
    ranked, hits = confidence[order], right[order]
    shares = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    # Images of equal confidence are on the same side of the threshold.
    last_of_equals = np.append(ranked[1:] != ranked[:-1], True)
    enough = np.flatnonzero(last_of_equals & (shares >= precision))
    return float(ranked[enough[-1]]) if len(enough) else None


def softmax(values: NDArray[np.float32], temperature: float = 1.0) -> NDArray[np.float64]:
    """Returns the softmax of logits / temperature along the last axis, float64 of the same shape."""
    shifted: NDArray[np.float64] = values.astype(np.float64)
    shifted /= temperature
    shifted -= shifted.max(axis=-1, keepdims=True)
    np.exp(shifted, out=shifted)  # in place, because with many classes this is the largest array
    shifted /= shifted.sum(axis=-1, keepdims=True)
    return shifted
