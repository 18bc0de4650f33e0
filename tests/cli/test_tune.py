"""What `kcv tune` prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kcv.cli.parsing import parse
from kcv.cli.render.tune import show, summary
from kcv.cli.specification import find_verb
from kcv.metrics.significance import Pair
from kcv.tasks.tune import Tuning


def found(**changes: object) -> Tuning:
    rows = [
        {"trial": 0, "state": "complete", "epochs": 2, "value": 0.8, "seconds": 60.0, "message": None,
         "params": {"optim.lr": 0.03, "model.dropout": None}},
        {"trial": 1, "state": "complete", "epochs": 2, "value": 0.9, "seconds": 60.0, "message": None,
         "params": {"optim.lr": 0.001, "model.dropout": 0.2}},
        {"trial": 2, "state": "stopped early", "epochs": 1, "value": 0.4, "seconds": 9.0, "message": None,
         "params": {"optim.lr": 0.1, "model.dropout": 0.2}},
    ]  # fmt: skip
    test = [
        {"who": who, "seed": 42, "trial": number, "accuracy": value, "accuracy_low": 0.7, "accuracy_high": 0.95}
        for who, number, value in (("best", 1, 0.88), ("default", 0, 0.81))
    ]
    values = {
        "directory": Path("studies/mine"), "trials": rows, "monitor": "val_accuracy", "best": 1,
        "best_config": Path("studies/mine/best.yaml"), "best_run": Path("studies/mine/trials/001"),
        "importance": {"optim.lr": 0.9, "model.dropout": 0.1}, "test": test,
        "pairs": [Pair("best, seed 42", "default, seed 42", 700, 200, 50, 50, 1e-9)],
        "page": Path("studies/mine/study.html"), "tracking": None, "seconds": 99.0, "notes": [],
    }  # fmt: skip
    return Tuning(**{**values, **changes})  # type: ignore[arg-type]


def test_the_summary_has_the_best_trial_the_test_split_and_the_next_commands() -> None:
    lines = summary(found()).splitlines()
    text = "\n".join(lines)
    for words in ("0.9000, trial 1", "2 complete, 1 stopped early", "optim.lr 90%, model.dropout 10%", "88.00%",
                  "best, seed 42 is better than default, seed 42", "train studies/mine/best.yaml",
                  "evaluate studies/mine/trials/001", "tune --resume=studies/mine --trials=N"):  # fmt: skip
        assert words in text, words
    (table,) = [number for number, line in enumerate(lines) if "dropout" in line and "trial" in line]
    assert lines[table + 1].split() == ["1", "0.9000", "0.001", "0.2"]
    assert lines[table + 2].split() == ["0", "0.8000", "0.03", "null"]


def test_the_summary_says_that_trials_were_judged_by_folds() -> None:
    assert "each in 5 folds, judged by their mean" in summary(found(folds=5))
    assert "folds" not in summary(found())


def test_a_search_without_a_result_says_how_to_go_on() -> None:
    text = summary(found(best=None, best_config=None, best_run=None, test=[], pairs=[], importance={}, trials=[]))
    assert "tune --resume=studies/mine" in text and "train" not in text.partition("Next:")[2]


def test_json_has_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert show(found(), parse(find_verb("tune"), ["--format=json"])) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["best"] == 1 and told["trials"][1]["params"]["optim.lr"] == 0.001
    assert told["pairs"][0]["differ"] is True and told["best_config"] == "studies/mine/best.yaml"


def test_flags_of_tune_win_over_short_flags_of_the_configuration() -> None:
    call = parse(find_verb("tune"), ["c.yaml", "--minutes=20", "--epochs=4", "--output_dir=x", "--pruner=median"])
    assert call.arguments == {"config": "c.yaml", "minutes": 20.0, "epochs": "4", "output_dir": "x", "pruner": "median"}
