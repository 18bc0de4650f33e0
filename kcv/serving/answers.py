"""Probabilities as answers: the label, its confidence and the ranking, in the terms of `kcv predict`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kcv.common.rows import PREDICTION_SET
from kcv.inference.prediction import answer, ranked
from kcv.serving.model import Version
from kcv.serving.problems import Problem
from kcv.serving.queue import HeatMap, Result


def prediction(version: Version, scores: NDArray[np.float32], top_k: int) -> dict[str, Any]:
    """Returns the answer for an image, as plain values.

    Args:
        version: the model.
        scores: its probabilities, float32 [classes].
        top_k: the number of classes to rank, at most.

    Returns:
        `label`, `unsure` where the confidence is below the model's threshold; `likeliest`, the likeliest class;
        `confidence`, its probability; `top`, the ranking: `label` and `confidence` of each class; and if the model has
        prediction sets, `prediction_set`, the names of its classes, most likely first.
    """
    names = version.class_names
    top = [{"label": names[at], "confidence": float(scores[at])} for at in ranked(scores, top_k)]
    likeliest, confidence = top[0]["label"], top[0]["confidence"]
    label = answer(likeliest, confidence, version.classifier.threshold)
    found = {"label": label, "likeliest": likeliest, "confidence": confidence, "top": top}
    sets = version.classifier.sets
    return found if sets is None else {**found, PREDICTION_SET: sets.names(scores, names)}


def predictions(
    version: Version, results: Sequence[Result], top_k: int, names: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Returns the answers for the images of a request.

    Args:
        version: the model.
        results: probabilities, or why there are none.
        top_k: the number of classes to rank.
        names: a name for each image, which its answer then has.

    Returns:
        Where an image could not be read, `error` and `code` in place of the answer.

    Raises:
        Problem: there is one image, and it could not be read; or none was classified, since the server cannot.
    """
    if len(results) == 1:
        raise_problem(results[0])
    if all(isinstance(result, Problem) and result.code >= 500 for result in results):
        raise_problem(results[0])
    rows = [
        prediction(version, result, top_k)
        if isinstance(result, np.ndarray)
        else {"error": result.reason, "code": result.code}
        for result in results
        if not isinstance(result, HeatMap)
    ]
    return rows if names is None else [{"name": name, **row} for name, row in zip(names, rows, strict=True)]


def scores_of(results: Sequence[Result]) -> NDArray[np.float32]:
    """Returns all probabilities, float32 [n, classes].

    Raises:
        Problem: that of the first image that has none; with several images it says which one.
    """
    for number, result in enumerate(results, start=1):
        if isinstance(result, Problem) and len(results) > 1:
            raise Problem(result.code, f"{number} of {len(results)}: {result.reason}", result.headers)
        raise_problem(result)
    return np.stack([result for result in results if isinstance(result, np.ndarray)])


def raise_problem(result: Result) -> None:
    """Raises a result that is a problem."""
    if isinstance(result, Problem):
        raise result
