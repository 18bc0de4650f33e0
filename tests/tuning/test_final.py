"""The comparison at the end of a study, of runs that are there already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kcv.training.run_folder import RunFolder
from kcv.tuning.final import Comparison, Final
from kcv.tuning.study import Configurations, StudyFolder
from kcv.tuning.trials import Trial

DEFAULT = Trial(0, {}, 2, {1: 0.5, 2: 0.6}, "complete", default=True)
BEST = Trial(1, {"optim.lr": 0.1}, 2, {1: 0.5, 2: 0.7}, "complete")


def compared(folder: Path, default: Trial, **given: Any) -> tuple[Comparison, list[str | None]]:
    """Returns the comparison of two finished trials, and the data that each measurement was told."""
    told: list[str | None] = []

    def measure(models: Mapping[str, Path], data: str | None) -> Mapping[str, NDArray[np.bool_]]:
        told.append(data)
        return {name: np.array([True, False]) for name in models}

    study = StudyFolder(folder)
    for number in (0, 1):
        run = RunFolder(study.trial(number))
        run.path.mkdir(parents=True)
        run.metrics.write_text("{}")
    final = Final(
        study, Configurations({}, given, {}), folder, seeds=1, workers=1, threads=None, parent=None, measure=measure,
        stop_requested=lambda: False,
    )  # fmt: skip
    found = final.compare(BEST, default)
    assert found is not None
    return found, told


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ("s3://bucket/photos", "s3://bucket/photos"),
        ("hf:owner/photos", "hf:owner/photos"),
        ("https://me:secret@host/x.parquet", "https://me:secret@host/x.parquet"),
        ("photos", None),
        ("digits", None),
    ],
)
def test_data_behind_a_url_are_named_with_their_credentials(tmp_path: Path, data: str, named: str | None) -> None:
    found, told = compared(tmp_path, DEFAULT, **{"data.source": data})
    assert told == [named]
    assert [row["who"] for row in found.rows] == ["best", "default"]
    assert "secret" not in (tmp_path / "test.json").read_text()


@pytest.mark.parametrize(
    ("state", "told"),
    [("open", "has not come to its end"), ("diverged", "diverged"), ("failed", "failed")],
)
def test_without_the_users_own_configuration_it_says_why(tmp_path: Path, state: Any, told: str) -> None:
    found, _ = compared(tmp_path, replace(DEFAULT, state=state))
    assert found.notes == [f"your configuration {told}, so there is nothing to compare the winner with"]
    assert [row["who"] for row in found.rows] == ["best"]
