"""A study on a bucket."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from s3_server import S3
from warm import WarmPython

pytest.importorskip("optuna", reason="needs the extra kcv[tune]")

from kcv.tasks.tune import _measure, _tuning
from kcv.tuning import running
from kcv.tuning.session import Asked, Session

TOY = {
    "model": "custom_cnn", "model.width": 0.125, "epochs": 1, "batch_size": 4, "precision": "float32", "device": "cpu",
    "tracking": "none",
}  # fmt: skip


@pytest.mark.full
@pytest.mark.parametrize("folds", [None, 2])
def test_the_winner_is_measured_on_the_test_split_in_the_bucket(
    s3: S3, bucket: str, warm: WarmPython, tmp_path: Path, folds: int | None
) -> None:
    def launch(stdin: int, log: Path, variables: Mapping[str, str]) -> running.Process:
        return warm.start(running.MODULE, (), folder=tmp_path, env=variables, stdin=stdin)

    (tmp_path / "space.yaml").write_text("optim.lr: {low: 1.0e-3, high: 1.0e-2, log: true}\n")
    values: dict[str, Any] = {"data": f"s3://{bucket}/photos", **TOY}
    asked = Asked(trials=2, seeds=1, pruner="none", folds=folds)
    session = Session.begin(None, tmp_path / "space.yaml", asked, tmp_path / "study", values, launch=launch)
    found = _tuning(session.run(_measure, time.monotonic()), 0.0)
    assert [row["state"] for row in found.trials] == ["complete"] * 2
    assert "best" in [row["who"] for row in found.test], found.notes
    assert found.best_run is not None
    assert (found.best_run / "model.keras").is_file()
