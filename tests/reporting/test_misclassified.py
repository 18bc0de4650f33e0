"""Mistakes: which come first, whose labels are in doubt, and what is drawn of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from kcv.inference import opening, splits
from kcv.reporting.misclassified import draw_misclassified, most_confident, write_mistakes

if TYPE_CHECKING:
    from kcv.training.run_folder import Run

NAMES = ("a", "b")


def test_the_surest_mistakes_come_first_and_right_answers_never() -> None:
    probabilities = np.array([[0.9, 0.1], [0.35, 0.65], [0.05, 0.95], [0.2, 0.8], [0.6, 0.4]])
    labels = np.array([0, 0, 0, 1, 1])
    rows = most_confident(labels, probabilities, NAMES, [f"{i}.png" for i in range(5)])
    assert [row["picture"] for row in rows] == ["2.png", "1.png", "4.png"]
    assert rows[0] == {
        "index": 2, "picture": "2.png", "true": "a", "predicted": "b", "confidence": 0.95,
        "probability_of_true": 0.05, "suspected_label_error": True,
    }  # fmt: skip
    # Images labelled b get 0.6 for b on average, those labelled a 0.45 for a.
    assert [row["suspected_label_error"] for row in rows] == [True, True, True]
    assert len(most_confident(labels, probabilities, NAMES, ["x"] * 5, most=1)) == 1


def test_a_label_is_doubted_only_where_the_model_is_as_sure_as_usual() -> None:
    probabilities = np.array([[0.05, 0.95], [0.1, 0.9], [0.4, 0.6]])
    (row,) = most_confident(np.array([1, 1, 0]), probabilities, NAMES, ["x"] * 3)
    assert not row["suspected_label_error"]
    # No image is labelled b: how sure the model usually is of b is not known.
    (row,) = most_confident(np.array([0]), np.array([[0.01, 0.99]]), NAMES, ["x"])
    assert not row["suspected_label_error"]


def test_rows_and_images_are_written(trained_run: Run, tmp_path: Path) -> None:
    loaded = opening.load(trained_run.model_path)
    images = splits.load_split(loaded, "test")
    right = np.eye(3)[images.labels]
    wrong = np.roll(right, 1, axis=1)
    rows = write_mistakes(tmp_path, images, wrong, loaded.class_names)
    draw_misclassified(tmp_path / "mistakes.png", rows, loaded.keras_model, images, loaded.class_names)
    content = json.loads((tmp_path / "mistakes.json").read_text())
    assert (content["pictures"], content["wrong"], len(content["mistakes"])) == (24, 24, 24)
    with Image.open(tmp_path / "mistakes.png") as drawn:
        assert len(np.unique(np.asarray(drawn.convert("RGB").resize((200, 200))).reshape(-1, 3), axis=0)) > 500
    assert "mistakes" not in (tmp_path / "mistakes.svg").read_text()[:200]
    assert write_mistakes(tmp_path, images, right, loaded.class_names) == []
    assert json.loads((tmp_path / "mistakes.json").read_text())["mistakes"] == []
