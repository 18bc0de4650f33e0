"""The learning-rate range test."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kcv.config import Config
from kcv.errors import DataError, UsageError
from kcv.tasks.find_lr import find_lr
from kcv.tasks.train_from_file import train
from kcv.training.lr_range import evaluate, rates_of

Configure = Callable[..., Config]


def curve(rates: list[float], best: float = 1e-2) -> list[float]:
    """A loss that falls up to the best rate, and rises above it."""
    return [2.3 - 1.5 / (1 + math.exp(-2 * math.log10(rate / best * 10))) + max(0.0, rate / best - 1) for rate in rates]


def test_the_suggestion_is_a_tenth_of_the_rate_of_the_lowest_loss() -> None:
    rates = list(np.geomspace(1e-6, 1.0, 100))
    found = evaluate(rates, curve(rates))
    assert 5e-4 < found.suggestion < 3e-3
    assert found.steepest < 1e-2
    assert found.suggestion == float(f"{found.suggestion:.1e}"), "two digits"


def test_the_test_ends_where_the_loss_is_far_too_high() -> None:
    rates = list(np.geomspace(1e-6, 1.0, 100))
    losses = [*curve(rates)[:80], *[1e6] * 10, *[math.nan] * 10]
    found = evaluate(rates, losses)
    assert 80 <= len(found.rates) <= 81
    assert found.suggestion == evaluate(rates, curve(rates)[:80]).suggestion


@pytest.mark.parametrize(
    ("losses", "told"), [([math.nan] * 50, "not finite in the first steps"), (list(range(50)), "never falls")]
)
def test_a_loss_that_says_nothing_is_an_error(losses: list[float], told: str) -> None:
    with pytest.raises(DataError, match=told):
        evaluate(list(np.geomspace(1e-6, 1.0, 50)), losses)


def test_the_rates_grow_by_equal_factors_from_low_to_high() -> None:
    rates = rates_of(Config.load().optim, 100, 100)
    assert rates[0] == pytest.approx(1e-6) and rates[-1] == pytest.approx(1.0)
    assert np.diff(np.log(rates)) == pytest.approx(np.full(99, math.log(1e6) / 99))


def test_find_lr_trains_nothing_but_leaves_a_plot_and_a_table(configure: Configure, tmp_path: Path) -> None:
    config = configure(**{"optim.label_smoothing": 0.0})
    found = find_lr(config)
    folder = tmp_path / "run"
    assert sorted(path.name for path in folder.iterdir()) == ["lr_finder.csv", "lr_finder.png", "lr_finder.svg"]
    rows = list(csv.DictReader((folder / "lr_finder.csv").read_text().splitlines()))
    assert len(rows) == found.steps <= 30
    assert min(float(row["smoothed_loss"]) for row in rows) < float(rows[0]["smoothed_loss"])
    assert 1e-6 < found.suggestion <= 1e-1, "at most a tenth of the highest rate"
    assert found.configured == config.optim.lr
    assert find_lr(config).suggestion == found.suggestion, "the same each time"


def test_the_head_alone_is_tested_where_a_run_begins_with_it(configure: Configure, trained_run: Any) -> None:
    config = configure(
        **{"model.mode": "feature_extraction", "model.width": 0.5, "model.weights": str(trained_run.model_path)}
    )
    assert find_lr(config).suggestion > 0


def test_find_lr_is_not_resumed() -> None:
    with pytest.raises(UsageError, match="--find_lr: allowed without --resume"):
        train(resume="runs/mine", find_lr=True)


def test_the_command_prints_the_suggestion(kcv: Callable[..., Any], images: Path) -> None:
    words = ["train", f"--data={images}", "--model=custom_cnn", "--model.width=0.25", "--batch_size=16", "--find_lr"]
    done = kcv(*words, "--output_dir=rates", "--format=json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["directory"] == "rates" and told["suggestion"] > 0
