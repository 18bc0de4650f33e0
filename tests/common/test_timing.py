"""Timing in turns."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from kcv.common import timing
from kcv.common.timing import interleave


class Clock:
    """A clock that work moves on, so that no other work on the machine does."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: clock.seconds, sleep=clock.sleep))
    return clock


def test_turns_are_taken_in_order_after_a_warm_up(time: Clock) -> None:
    order: list[str] = []

    def work(name: str) -> None:
        order.append(name)
        time.sleep(0.06)  # longer than a turn has to be, so that one run is a turn

    rounds: list[int] = []
    seconds = interleave(
        {name: (lambda name=name: work(name)) for name in "abc"}, repeats=3, advance=lambda: rounds.append(len(order))
    )
    assert order == [*"aabbcc", *"abcabcabc"]
    assert rounds == [9, 12, 15]
    assert list(seconds) == ["a", "b", "c"]
    assert all(times == pytest.approx([0.06] * 3) for times in seconds.values())


def test_quick_work_is_run_several_times_per_turn_and_synchronized_around_them(time: Clock) -> None:
    events: list[str] = []
    means = interleave(
        {"quick": lambda: time.sleep(0.005)}, repeats=2, synchronize=lambda: events.append("synchronized")
    )
    assert means["quick"] == pytest.approx([0.005] * 2)
    assert len(events) == 2 * (2 + 2)  # before and after: two warm-ups, two turns
    runs = interleave({"quick": lambda: time.sleep(0.005)}, repeats=2, each=True)
    assert len(runs["quick"]) == 2 * 10
