from __future__ import annotations

import json
import math
import time
import tracemalloc
import warnings

import numpy as np
import pytest
from sklearn import metrics as reference

from kcv import metrics
from kcv.metrics import confusion

KEYS = {
    "split", "n", "accuracy", "accuracy_ci95", "balanced_accuracy", "macro_f1", "macro_f1_ci95", "top_k_accuracy",
    "roc_auc_macro", "average_precision_macro", "log_loss", "brier", "ece", "reliability", "confused_pairs",
    "per_class",
}  # fmt: skip


def scores(n: int, classes: int, seed: int = 0, decimals: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Labels and better-than-chance probabilities; rounded logits make ties."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    logits = np.round(rng.normal(size=(n, classes)) + 1.5 * np.eye(classes)[labels], decimals)
    exponentials = np.exp(logits)
    return labels, exponentials / exponentials.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("case", range(50))
def test_agrees_with_scikit_learn(case: int) -> None:
    rng = np.random.default_rng(case)
    n, classes = int(rng.integers(2, 400)), int(rng.integers(2, 12))
    labels, probabilities = scores(n, classes, seed=case, decimals=int(rng.integers(0, 3)))
    if case % 3 == 0:  # a class, or all but one, without images
        labels = np.where(labels == classes - 1, 0, labels) if case % 2 else np.zeros_like(labels)
    names = [f"class {c}" for c in range(classes)]

    result = metrics.summarize(labels, probabilities, names, "test")

    predicted = probabilities.argmax(axis=1)
    every = np.arange(classes)
    assert set(result) == KEYS
    assert (result["split"], result["n"]) == ("test", n)
    assert result["accuracy"] == reference.accuracy_score(labels, predicted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of predicted classes without images
        balanced = reference.balanced_accuracy_score(labels, predicted)
    assert result["balanced_accuracy"] == pytest.approx(balanced, abs=1e-15)
    assert result["macro_f1"] == pytest.approx(reference.f1_score(labels, predicted, average="macro"), abs=1e-15)
    assert result["log_loss"] == pytest.approx(reference.log_loss(labels, probabilities, labels=every), rel=1e-12)
    brier = np.mean([np.sum((p - np.eye(classes)[label]) ** 2) for p, label in zip(probabilities, labels, strict=True)])
    assert result["brier"] == pytest.approx(brier, rel=1e-12)
    for k, value in result["top_k_accuracy"].items():
        # scikit-learn puts the last of equal classes first, we the first.
        tie_free = probabilities - 1e-9 * every
        assert value == pytest.approx(reference.top_k_accuracy_score(labels, tie_free, k=int(k), labels=every))
    assert set(result["top_k_accuracy"]) == {str(k) for k in (2, 3, 5) if k < classes}
    precision, recall, f1, support = reference.precision_recall_fscore_support(
        labels, predicted, labels=every, zero_division=np.nan
    )
    defined = [c for c in every if 0 < (labels == c).sum() < n]
    auc = {c: reference.roc_auc_score(labels == c, probabilities[:, c]) for c in defined}
    ap = {c: reference.average_precision_score(labels == c, probabilities[:, c]) for c in defined}
    for c, name in enumerate(names):
        columns = {"precision": precision[c], "recall": recall[c], "f1": f1[c], "support": support[c]}
        columns |= {"roc_auc": auc.get(c, np.nan), "average_precision": ap.get(c, np.nan)}
        columns["predicted"] = (probabilities.argmax(axis=1) == c).sum()
        row = {key: np.nan if value is None else value for key, value in result["per_class"][name].items()}
        assert row == pytest.approx(columns, abs=1e-15, nan_ok=True)
    assert result["roc_auc_macro"] == (pytest.approx(np.mean(list(auc.values()))) if auc else None)
    assert result["average_precision_macro"] == (pytest.approx(np.mean(list(ap.values()))) if ap else None)


def test_by_hand_with_a_class_that_never_occurs() -> None:
    probabilities = np.array([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [0.1, 0.9, 0.0], [0.2, 0.8, 0.0]])
    labels = np.array([0, 1, 1, 1])

    result = metrics.summarize(labels, probabilities, ["a", "b", "never"], "val")

    ranked = {"roc_auc": 1.0, "average_precision": 1.0}
    assert result["accuracy"] == 0.75
    assert result["per_class"] == {
        "a": {"precision": 0.5, "recall": 1.0, "f1": 2 / 3, "support": 1, **ranked, "predicted": 2},
        "b": {"precision": 1.0, "recall": 2 / 3, "f1": 0.8, "support": 3, **ranked, "predicted": 2},
        "never": dict.fromkeys(("precision", "recall", "f1", *ranked)) | {"support": 0, "predicted": 0},
    }
    assert result["macro_f1"] == pytest.approx((2 / 3 + 0.8) / 2, abs=1e-15)
    assert result["balanced_accuracy"] == pytest.approx((1 + 2 / 3) / 2, abs=1e-15)
    assert result["roc_auc_macro"] == 1.0
    assert result["log_loss"] == pytest.approx(-sum(map(math.log, [0.7, 0.3, 0.9, 0.8])) / 4, abs=1e-15)
    # Four bins of one image each: |1 - 0.7|, |0 - 0.5|, |1 - 0.9|, |1 - 0.8|.
    assert result["ece"] == pytest.approx(1.1 / 4, abs=1e-15)


def test_class_that_is_predicted_but_never_occurs_counts_against_macro_f1() -> None:
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8]])
    result = metrics.summarize(np.array([0, 0]), probabilities, ["a", "b"], "test")

    unranked = {"roc_auc": None, "average_precision": None, "predicted": 1}
    assert result["per_class"]["b"] == {"precision": 0.0, "recall": None, "f1": 0.0, "support": 0, **unranked}
    assert result["macro_f1"] == pytest.approx(1 / 3, abs=1e-15)
    assert result["roc_auc_macro"] is None


def test_one_image() -> None:
    result = metrics.summarize(np.array([1]), np.array([[0.0, 1.0]]), ["a", "b"], "test")

    assert (result["n"], result["accuracy"], result["log_loss"], result["ece"]) == (1, 1.0, 0.0, 0.0)
    assert result["roc_auc_macro"] is None
    assert result["accuracy_ci95"] == pytest.approx([0.20654931, 1.0], abs=1e-8)


def test_zero_probability_of_the_true_class_keeps_the_loss_finite() -> None:
    labels, probabilities = np.array([1, 0]), np.array([[1.0, 0.0], [1.0, 0.0]])
    assert metrics.log_loss(labels, probabilities) == pytest.approx(-math.log(np.finfo(float).eps) / 2)


def test_ece_bins_exclude_their_lower_end() -> None:
    # 0.6 = 9/15 belongs to the bin (8/15, 9/15], 0.62 to the next: their gaps (+0.4, -0.62) must not cancel.
    probabilities = np.array([[0.6, 0.4], [0.62, 0.38]])
    assert metrics.expected_calibration_error(np.array([0, 1]), probabilities) == pytest.approx((0.4 + 0.62) / 2)
    # 0.61 and 0.62 share a bin: there they do.
    probabilities = np.array([[0.61, 0.39], [0.62, 0.38]])
    assert metrics.expected_calibration_error(np.array([0, 1]), probabilities) == pytest.approx((0.62 - 0.39) / 2)


def test_diverged_model_gives_null_and_valid_json() -> None:
    probabilities = np.full((3, 2), np.nan)
    result = metrics.summarize(np.array([0, 1, 1]), probabilities, ["a", "b"], "test")

    assert result["log_loss"] is result["ece"] is result["roc_auc_macro"] is None
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_every_value_is_plain_and_survives_json_to_the_last_digit() -> None:
    labels, probabilities = scores(50, 4)
    result = metrics.summarize(labels.astype(np.int32), probabilities.astype(np.float32), list("abcd"), "test")
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_order_of_the_images_does_not_change_the_counted_figures() -> None:
    labels, probabilities = scores(200, 5)
    shuffled = np.random.default_rng(1).permutation(200)
    one = metrics.summarize(labels, probabilities, list("abcde"), "test")
    other = metrics.summarize(labels[shuffled], probabilities[shuffled], list("abcde"), "test")
    assert other["per_class"] == one["per_class"]
    assert other["roc_auc_macro"] == one["roc_auc_macro"]
    assert other["log_loss"] == pytest.approx(one["log_loss"], rel=1e-14)


def test_confusion_matrix_has_true_classes_in_rows() -> None:
    matrix = metrics.confusion_matrix(np.array([0, 0, 2]), np.array([0, 1, 1]), 3)
    assert matrix.tolist() == [[1, 1, 0], [0, 0, 0], [0, 1, 0]]


def test_roc_curve_agrees_with_scikit_learn() -> None:
    labels, probabilities = scores(300, 3, decimals=0)
    false, true = metrics.roc_curve(labels == 0, probabilities[:, 0])
    expected_false, expected_true, _ = reference.roc_curve(labels == 0, probabilities[:, 0], drop_intermediate=False)
    np.testing.assert_allclose(false, expected_false, atol=1e-15)
    np.testing.assert_allclose(true, expected_true, atol=1e-15)


@pytest.mark.parametrize(
    ("labels", "shape", "message"),
    [
        ([], (0, 2), "n >= 1"),
        ([0.0, 1.0], (2, 2), "integers"),
        ([0, 1], (2, 3), r"\[2, 2\]"),
        ([0, 2], (2, 2), "0 to 1"),
        ([-1, 0], (2, 2), "0 to 1"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(labels: list[float], shape: tuple[int, int], message: str) -> None:
    array = np.array(labels, dtype=None if labels else np.int64)
    with pytest.raises(ValueError, match=message):
        metrics.summarize(array, np.full(shape, 0.5), ["a", "b"], "test")


def test_roc_is_what_counting_pairs_and_thresholds_gives() -> None:
    rng = np.random.default_rng(3)
    # Few distinct scores, so that ties are common.
    scores = rng.integers(0, 6, 60) / 6
    positive = rng.random(60) < 0.4
    pairs = scores[positive][:, None] - scores[~positive][None, :]
    area = float(np.mean((pairs > 0) + 0.5 * (pairs == 0)))
    assert metrics.roc_aucs((~positive).astype(int), np.stack([scores, 1 - scores], axis=1)) == pytest.approx(
        [area] * 2
    )
    false, true = metrics.roc_curve(positive, scores)
    thresholds = [np.inf, *sorted(set(scores), reverse=True)]
    np.testing.assert_allclose(false, [np.mean(scores[~positive] >= threshold) for threshold in thresholds])
    np.testing.assert_allclose(true, [np.mean(scores[positive] >= threshold) for threshold in thresholds])


def test_answers_above_a_threshold_are_counted_alone() -> None:
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.45, 0.55]])
    labels = np.array([0, 1, 1, 0])
    found = metrics.summarize(labels, probabilities, ["a", "b"], "test", threshold=0.6)["abstention"]
    assert found == {
        "threshold": 0.6, "coverage": 0.75, "precision": pytest.approx(2 / 3),
        "precision_ci95": list(metrics.wilson_interval(2, 3)),
    }  # fmt: skip
    assert metrics.abstention(labels, probabilities, 1.0) == {
        "threshold": 1.0, "coverage": 0.0, "precision": None, "precision_ci95": [0.0, 1.0],
    }  # fmt: skip


def test_confused_pairs_come_most_frequent_first_and_only_mistakes() -> None:
    matrix = np.array([[5, 1, 0], [3, 1, 0], [0, 0, 7]])
    assert metrics.confused_pairs(matrix, ["a", "b", "c"]) == [
        {"true": "b", "predicted": "a", "count": 3, "share": 0.75},
        {"true": "a", "predicted": "b", "count": 1, "share": pytest.approx(1 / 6)},
    ]
    assert len(metrics.confused_pairs(matrix, ["a", "b", "c"], most=1)) == 1


@pytest.mark.parametrize("seed", range(20))
def test_calibration_error_equals_an_independent_count(seed: int) -> None:
    labels, probabilities = scores(int(np.random.default_rng(seed).integers(1, 300)), 4, seed=seed, decimals=1)
    error = 0.0
    for i in range(15):
        inside = [
            (p.max(), p.argmax() == label)
            for p, label in zip(probabilities, labels, strict=True)
            if i / 15 < p.max() <= (i + 1) / 15
        ]
        if inside:
            confidence, right = zip(*inside, strict=True)
            error += len(inside) / len(labels) * abs(np.mean(right) - np.mean(confidence))
    assert metrics.expected_calibration_error(labels, probabilities) == pytest.approx(error, abs=1e-12)
    rows = metrics.reliability(labels, probabilities)
    assert sum(row["n"] for row in rows) == len(labels)
    assert (rows[0]["low"], rows[-1]["high"]) == (0.0, 1.0)


def test_the_cells_that_occur_say_what_the_matrix_says() -> None:
    rng = np.random.default_rng(4)
    labels, predicted = rng.integers(0, 9, 60), rng.integers(0, 9, 60)
    matrix = metrics.confusion_matrix(labels, predicted, 12)
    cells = confusion(labels, predicted, 12)
    assert np.array_equal(cells.matrix(), matrix)
    assert (cells.counts > 0).all()
    assert cells.support.tolist() == matrix.sum(axis=1).tolist()
    names = [f"class {i}" for i in range(12)]
    assert metrics.confused_pairs(cells, names) == metrics.confused_pairs(matrix, names)
    assert metrics.macro_f1_interval(cells) == metrics.macro_f1_interval(matrix)


def test_ten_thousand_classes_need_time_and_memory_for_their_images_alone() -> None:
    n, classes = 60, 10_000
    rng = np.random.default_rng(5)
    probabilities = rng.random((n, classes))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    labels = rng.integers(0, classes, n)
    names = [f"{i}" for i in range(classes)]
    tracemalloc.start()
    began = time.thread_time()
    result = metrics.summarize(labels, probabilities, names, "test")
    seconds = time.thread_time() - began
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(result["per_class"]) == classes
    assert seconds < 5  # of the processor; a matrix of all pairs alone takes more
    assert peak < 200_000_000  # where such a matrix has 800 MB
