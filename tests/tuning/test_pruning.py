"""When trials are compared for the first time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kcv.common import seal
from kcv.config.sections import OptimConfig
from kcv.tuning.pruning import MedianRule, SuccessiveHalving, earliest_of, rule_of
from kcv.tuning.study import Settings, StudyFolder
from kcv.tuning.trials import Order

ORDER = Order(higher=True)


@pytest.mark.parametrize(
    ("optim", "epochs", "frozen", "expected"),
    [
        ({}, 20, 0, 1),
        ({"warmup_fraction": 0.2}, 20, 0, 4),
        ({"warmup_fraction": 0.2}, 4, 0, 1),
        ({"warmup_epochs": 0.0}, 20, 0, 1),
        ({"warmup_epochs": 2.5}, 20, 0, 3),
        ({"warmup_epochs": 9.0}, 8, 0, 2),  # longer than the run: a quarter of it
        ({"warmup_fraction": 0.2}, 12, 2, 4),
    ],
)
def test_trials_are_compared_once_their_learning_rate_has_been_at_its_peak(
    optim: dict[str, Any], epochs: int, frozen: int, expected: int
) -> None:
    assert earliest_of(OptimConfig.model_validate(optim), epochs, frozen) == expected


def test_there_are_no_rungs_before() -> None:
    assert SuccessiveHalving(20, ORDER).rungs == [1, 2, 7, 20]
    assert SuccessiveHalving(20, ORDER, 4).rungs == [7, 20]
    assert SuccessiveHalving(20, ORDER, 20).rungs == [20]
    for rule in ("asha", "median"):
        assert rule_of(rule, 3, ORDER, 9).first() == 3  # type: ignore[arg-type]


def test_the_median_rule_waits_as_long() -> None:
    assert MedianRule(27, ORDER)._begins == 3
    assert MedianRule(27, ORDER, 8)._begins == 8


def test_a_study_of_before_keeps_its_rungs(tmp_path: Path) -> None:
    folder = StudyFolder.create("any", tmp_path)
    written = Settings(
        values={}, given={}, chosen={}, space={}, pruner="asha", earliest=4, trials=1, minutes=None, workers=1,
        threads=None, seeds=0, storage=None, study="kcv", owner="me", working_folder=str(tmp_path),
    )  # fmt: skip
    folder.write(written)
    assert folder.read("any") == written
    content = json.loads(folder.settings.read_text())
    del content["earliest"], content["signature"]
    folder.settings.write_text(json.dumps({**content, "signature": seal.signature(content)}))
    assert folder.read("any") == written.model_copy(update={"earliest": 1})
