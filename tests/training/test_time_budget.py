"""How the time of a command is divided."""

from __future__ import annotations

import pytest

from kcv.training import time_budget
from kcv.training.time_budget import Clock


def test_what_came_before_the_clock_comes_again_at_the_end_and_what_is_measured_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 104.0
    monkeypatch.setattr(time_budget.time, "perf_counter", lambda: now)
    clock = Clock(minutes=2, began=100)  # imports took 4 s
    assert clock.passed() == 4 and clock.left() == pytest.approx(0.97 * 120 - 4 - 4)
    now = 124.0  # speeds were measured
    assert clock.left() == pytest.approx(0.97 * 120 - 24 - 4)
    assert clock.whole(60) == 60 + 24 + 4
    assert Clock(minutes=None, began=100).left() == float("inf")
