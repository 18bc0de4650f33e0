"""Plots exist, show what they were given, and cope with what real runs bring."""

import math

import numpy as np
import pytest
from PIL import Image
from variants import variants

from kcv.errors import OutputError
from kcv.reporting import plots


def _pixels(path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def _ink(path) -> int:
    return int((_pixels(path).sum(axis=2) < 720).sum())


@pytest.mark.parametrize("classes", variants([10, 2, 30, 120], fast=1))
def test_a_confusion_matrix_of_any_size(tmp_path, classes):
    rng = np.random.default_rng(0)
    matrix = rng.integers(0, 5, (classes, classes)) + np.eye(classes, dtype=int) * 50
    names = [f"a rather long class name, number {i}" for i in range(classes)]
    path = plots.confusion_matrix(matrix, names, tmp_path / "matrix.png")
    height, width, _ = _pixels(path).shape
    assert min(height, width) >= 500
    assert max(height, width) <= 4000


def test_a_right_matrix_looks_different_from_a_wrong_one(tmp_path):
    right = np.eye(4, dtype=int) * 10
    names = ["a", "b", "c", "d"]
    first = _pixels(plots.confusion_matrix(right, names, tmp_path / "right.png"))
    second = _pixels(plots.confusion_matrix(right[::-1], names, tmp_path / "wrong.png"))
    assert first.shape == second.shape
    assert np.abs(first - second).max() > 100


def test_a_class_without_images_and_a_name_with_dollars_are_drawn(tmp_path):
    matrix = np.array([[3, 1, 0], [0, 0, 0], [1, 0, 2]])
    assert _ink(plots.confusion_matrix(matrix, ["$5 & $10", "no_images", "日本"], tmp_path / "m.png")) > 1000


@pytest.mark.parametrize("classes", [2, 12])
def test_roc_curves(tmp_path, classes):
    rng = np.random.default_rng(1)
    labels = np.arange(200) % classes
    probabilities = rng.dirichlet(np.ones(classes), 200)
    probabilities[np.arange(200), labels] += 0.5
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    names = [f"class {i}" for i in range(classes)]
    assert _ink(plots.roc_curves(labels, probabilities, names, tmp_path / "roc.png")) > 1000


def test_roc_curves_of_very_many_classes_are_not_all_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr("kcv.reporting.plots.roc._MOST_GREY", 5)
    labels = np.arange(80) % 40
    probabilities = np.random.default_rng(1).dirichlet(np.ones(40), 80)
    plots.roc_curves(labels, probabilities, [f"class {i}" for i in range(40)], tmp_path / "roc.png")
    assert (tmp_path / "roc.svg").read_text().count("#d9d9d9") < 20


def test_roc_curves_of_a_single_class_are_said_to_be_undefined(tmp_path):
    path = plots.roc_curves(np.zeros(5, int), np.full((5, 2), 0.5), ["a", "b"], tmp_path / "roc.png")
    assert _ink(path) > 100


@pytest.mark.parametrize(
    "rows",
    [
        [{"epoch": 1, "loss": 1.0, "accuracy": 0.5, "val_loss": 1.1, "val_accuracy": 0.4}],
        [{"epoch": e, "loss": 1 / e, "accuracy": 1 - 1 / e, "val_loss": math.nan} for e in range(1, 40)],
        [{"epoch": e, "loss": 1 / e, "val_loss": 2 / e, "accuracy": 0.5, "val_accuracy": 0.6} for e in range(1, 6)],
    ],
)
def test_learning_curves_of_any_history(tmp_path, rows):
    assert _ink(plots.learning_curves(rows, tmp_path / "curves.png")) > 1000


def test_a_place_that_cannot_be_written_to_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        plots.confusion_matrix(np.eye(2, dtype=int), ["a", "b"], tmp_path / "file" / "m.png")
