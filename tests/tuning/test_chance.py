"""A best trial that may be the best by chance."""

from __future__ import annotations

import pytest

pytest.importorskip("optuna", reason="needs the extra kcv[tune]")

from kcv.tuning.outcome import chance


def test_a_best_accuracy_of_few_images_is_said_to_be_one() -> None:
    (note,) = chance(0.796, 250)
    assert note.startswith("val_accuracy is of 250 images: 79.6% stands for 74.2% to 84.1%")
    assert "data.val_fraction" in note and "--folds" in note


@pytest.mark.parametrize(("value", "images"), [(0.796, 2_500), (0.99, 800), (0.5, None), (0.5, 0)])
def test_where_there_are_enough_or_nobody_knows_there_is_no_note(value: float, images: int | None) -> None:
    assert chance(value, images) == []
