"""Timing several ways to do the same thing, in turns, so that the noise of a machine meets all of them alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

Name = TypeVar("Name", bound=Hashable)

_TURN_SECONDS = 0.05
"""How long a turn lasts at least: a shorter one is several runs, because clocks and waits cost too."""
_WARM_UPS = 2
PAUSE = 0.1
"""Seconds after which onnxruntime's threads rest."""


def interleave(
    contestants: Mapping[Name, Callable[[], object]],
    repeats: int,
    *,
    settle: Callable[[], object] = lambda: None,
    each: bool = False,
    pause: float = 0.0,
    advance: Callable[[], object] = lambda: None,
) -> dict[Name, list[float]]:
    """Times contestants in turns.

    Args:
        contestants: what is timed, by name.
        repeats: turns of each that count; before them each is run until it is warm.
        settle: waits until what was begun is done, where runs only begin it (CUDA).
        each: whether every run is timed for itself; by default a turn gives the mean of its runs.
        pause: seconds of rest before every turn. Thread pools spin for a while when they have nothing to do, which
            takes a core away from whoever comes next.
        advance: called after every round of turns.

    Returns:
        Seconds of one run, by name, in the order in which they were taken.
    """

    def timed(work: Callable[[], object], count: int) -> float:
        settle()
        began = time.perf_counter()
        for _ in range(count):
            work()
        settle()
        return (time.perf_counter() - began) / count

    counts = {}
    for name, work in contestants.items():
        for _ in range(_WARM_UPS):
            taken = timed(work, 1)
        counts[name] = max(1, math.ceil(_TURN_SECONDS / taken))
    seconds: dict[Name, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, work in contestants.items():
            time.sleep(pause)
            if each:
                seconds[name].extend(timed(work, 1) for _ in range(counts[name]))
            else:
                seconds[name].append(timed(work, counts[name]))
        advance()
    return seconds
