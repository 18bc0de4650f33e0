"""What a trial in folds is worth: the mean over the epochs that its runs keep."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from kcv.tuning.trial_folds import TrialFolds

HISTORIES = {1: [(0.5, 0.9), (0.9, 0.4), (0.8, 0.3)], 2: [(0.7, 0.6), (0.7, 0.5), (0.6, 0.7)]}


@pytest.mark.parametrize(
    ("keep", "accuracies", "losses"),
    [("best", [0.9, 0.8], [0.4, 0.45]), ("last", [0.8, 0.7], [0.3, 0.5])],
)
def test_the_kept_epoch_of_each_fold_that_has_ended_counts(
    tmp_path: Path, keep: Literal["best", "last"], accuracies: list[float], losses: list[float]
) -> None:
    folds = TrialFolds(3, "digest", "val_accuracy", higher=True, keep=keep)
    runs = folds.runs(tmp_path)
    for number, figures in HISTORIES.items():
        run = runs[number - 1]
        run.path.mkdir()
        rows = [f"{epoch},{loss},{accuracy},2.0" for epoch, (accuracy, loss) in enumerate(figures, start=1)]
        run.history.write_text("\n".join(["epoch,val_loss,val_accuracy,seconds", *rows]))
        run.metrics.write_text("{}")
    rows_found = folds.rows(runs)
    assert [row["val_accuracy"] for row in rows_found] == pytest.approx(accuracies)
    assert [row["val_loss"] for row in rows_found] == pytest.approx(losses)
    assert [(row["epoch"], row["seconds"]) for row in rows_found] == [(1, 6), (2, 6)]
