"""Timing in turns."""

from __future__ import annotations

import time

from kcv.turns import take_turns


def test_turns_are_taken_in_order_after_a_warm_up() -> None:
    order: list[str] = []

    def work(name: str) -> None:
        order.append(name)
        time.sleep(0.06)  # longer than a turn has to be, so that one run is a turn

    rounds: list[int] = []
    seconds = take_turns(
        {name: (lambda name=name: work(name)) for name in "abc"}, repeats=3, advance=lambda: rounds.append(len(order))
    )
    assert order == [*"aabbcc", *"abcabcabc"]
    assert rounds == [9, 12, 15]
    assert list(seconds) == ["a", "b", "c"]
    assert all(len(times) == 3 and min(times) >= 0.06 for times in seconds.values())


def test_quick_work_is_run_several_times_a_turn_and_settled_around_them() -> None:
    events: list[str] = []
    means = take_turns({"quick": lambda: time.sleep(0.005)}, repeats=2, settle=lambda: events.append("settled"))
    assert len(means["quick"]) == 2
    assert len(events) == 2 * (2 + 2)  # before and after: two warm-ups, two turns
    runs = take_turns({"quick": lambda: time.sleep(0.005)}, repeats=2, each=True)
    assert len(runs["quick"]) > 4
