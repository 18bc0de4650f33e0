"""The page of a study."""

from __future__ import annotations

from typing import Any

from kcv.reporting.study_page import StudyMaterial, page


def trial(number: int, value: float | None, state: str = "complete", **params: Any) -> dict[str, Any]:
    values = {} if value is None else {1: value / 2, 2: value}
    return {
        "number": number, "state": state, "epochs": len(values), "value": value, "seconds": 60.0, "params": params,
        "values": values, "default": number == 0, "message": "the loss became nan" if state == "diverged" else "",
    }  # fmt: skip


def material(**changes: Any) -> StudyMaterial:
    trials = [
        trial(1, 0.9, **{"optim.lr": 1e-3, "augment.policy": "light"}),
        trial(0, 0.8, **{"optim.lr": 3e-2, "augment.policy": "none"}),
        trial(2, 0.5, "stopped early", **{"optim.lr": 1e-4, "augment.policy": "none"}),
        trial(3, None, "diverged", **{"optim.lr": 1e-1, "augment.policy": "none"}),
    ]
    rows = [
        {"who": who, "seed": 42, "trial": number, "accuracy": value, "accuracy_low": value - 0.1,
         "accuracy_high": value + 0.05}
        for who, number, value in (("best", 1, 0.88), ("default", 0, 0.81))
    ]  # fmt: skip
    ranges = {"optim.lr": {"low": 1e-4, "high": 1e-1, "log": True}, "augment.policy": ["none", "light"]}
    given = {
        "title": "mine", "monitor": "val_accuracy", "higher": True, "pruner": "asha", "epochs": 2, "ranges": ranges,
        "trials": trials, "best": 1, "best_config": "optim:\n  lr: 0.001\n", "again": "python -m kcv train best.yaml",
        "importance": {"optim.lr": 0.8, "augment.policy": 0.2}, "rows": rows, "verdicts": ["best is better"],
        "images": 1000, "notes": ["one trial runs elsewhere"],
    }  # fmt: skip
    return StudyMaterial(**{**given, **changes})


def test_the_page_shows_trials_plots_and_the_comparison_and_loads_nothing() -> None:
    html = page(material())
    assert html.count("data:image/svg+xml") == 3
    for words in ("4 trials (2 complete, 1 stopped early, 1 diverged) of 2 epochs", "trial 1", "best is better",
                  "1,000 images", "one trial runs elsewhere.", "the loss became nan", "0.0001 to 0.1, by factors",
                  "python -m kcv train best.yaml"):  # fmt: skip
        assert words in html, words
    assert "<script" not in html and "http" not in html.replace("http-equiv", "")


def test_a_study_without_a_result_has_a_page_too() -> None:
    html = page(
        material(trials=[trial(0, None, "failed")], best=None, best_config=None, importance={}, rows=[], verdicts=[])
    )
    assert "On the test split" in html  # the note
    assert "data:image/svg" not in html and "best.yaml" not in html


def test_what_comes_from_files_is_escaped() -> None:
    html = page(material(title="<b>mine</b>", notes=["<script>alert(1)</script>"], best_config="x: </pre><img src=x>"))
    assert "<b>mine" not in html and "<script" not in html and "<img src=x" not in html
