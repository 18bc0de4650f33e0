"""Times several alternatives in turns, so that noise on the machine affects all of them equally."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

Name = TypeVar("Name", bound=Hashable)

_TURN_SECONDS = 0.05
"""The least duration of a turn: short runs are repeated within a turn, because clocks and waits take time too."""
_WARM_UPS = 2
PAUSE = 0.1
"""Seconds after which onnxruntime's threads stop spinning."""


def interleave(
    candidates: Mapping[Name, Callable[[], object]],
    repeats: int,
    *,
    synchronize: Callable[[], object] = lambda: None,
    each: bool = False,
    pause: float = 0.0,
    advance: Callable[[], object] = lambda: None,
) -> dict[Name, list[float]]:
    """Times candidates in turns.

    Args:
        candidates: the functions to time, by name.
        repeats: number of measured turns per candidate, after a warm-up.
        synchronize: waits for asynchronous work (CUDA) to finish.
        each: whether to time every run separately; by default, a turn gives the mean of its runs.
        pause: seconds of rest before every turn. Idle thread pools spin for a while, which takes a core from the next
            candidate.
        advance: called after every round of turns.

    Returns:
        Seconds per run, by name, in the order of measurement.
    """

    def timed(work: Callable[[], object], count: int) -> float:
        synchronize()
        began = time.perf_counter()
        for _ in range(count):
            work()
        synchronize()
        return (time.perf_counter() - began) / count

    counts = {}
    for name, work in candidates.items():
        for _ in range(_WARM_UPS):
            taken = timed(work, 1)
        counts[name] = max(1, math.ceil(_TURN_SECONDS / taken))
    seconds: dict[Name, list[float]] = {name: [] for name in candidates}
    for _ in range(repeats):
        for name, work in candidates.items():
            time.sleep(pause)
            if each:
                seconds[name].extend(timed(work, 1) for _ in range(counts[name]))
            else:
                seconds[name].append(timed(work, counts[name]))
        advance()
    return seconds
