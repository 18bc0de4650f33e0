"""Threads that give way: where other processes compute, torch's threads do not spin while they wait for each other.

After each parallel loop the threads of GNU's OpenMP, which torch computes with on Linux, wait actively for some
milliseconds, so that the next loop starts at once. That is right on a quiet machine. On a busy one a thread that spins
keeps its core from the very thread it waits for, and a training step can take ten times as long.

OpenMP spins some thousand times less while it has more threads than there are cores (see `GOMP_SPINCOUNT` in the
manual of libgomp). So threads of our own, asleep, make up the number while the machine is busy. As many threads as
before share a computation, in the same way, so that all results stay the same to the bit; with fewer they would not.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from kcv.common.cores import bound_cores

_BUSY, _QUIET = 0.25, 0.1
"""From how many cores in use by other processes threads give way, and below how many they spin again."""

_INTERVAL_S = 1.0
_STAT = Path("/proc/stat")
_TICK_S = 0.01  # Linux counts in hundredths of a second, on all its platforms
_GRAIN = 32_768  # elements of a loop per thread, below which torch uses fewer threads

_log = logging.getLogger(__name__)
_followed_by: int | None = None  # the process


def follow_load(level: int = logging.DEBUG) -> None:
    """Lets the threads of this process give way while other processes compute, for as long as it lives.

    The machine is looked at every second. kcv's own other processes count too: those that decode images, run another
    trial or have another rank need the core of a thread that spins as much as strangers do. Does nothing except on
    Linux, or if torch computes with one thread.

    Args:
        level: the level of the log at which it is told that other processes compute, once.
    """
    global _followed_by
    import torch

    # A forked process has the variables of its parent, but not its threads.
    if _followed_by == os.getpid() or torch.get_num_threads() < 2 or not os.path.isfile(_STAT):
        return
    _followed_by = os.getpid()
    threading.Thread(target=_follow, args=(IdleTeams(), OtherLoad, level), name="follow load", daemon=True).start()


class IdleTeams:
    """Threads that sleep, each with a team of OpenMP threads: while they are there, no thread of the process spins."""

    def __init__(self) -> None:
        self._end = threading.Event()
        self._threads: list[threading.Thread] = []
        self.were_present = False
        """Whether the threads have been there before."""

    @property
    def present(self) -> bool:
        """Whether the threads are there."""
        return bool(self._threads)

    def set(self, present: bool) -> None:
        """Starts the threads, or ends them; returns when that is done."""
        if present == self.present:
            return
        if not present:
            self._end.set()
            for thread in self._threads:
                thread.join()
            self._threads = []
            return
        import torch

        self._end, self.were_present = threading.Event(), True
        team = torch.get_num_threads()
        missing = max(1, len(bound_cores()) - team + 1)
        ready = threading.Barrier(-(-missing // (team - 1)) + 1)
        for _ in range(ready.parties - 1):
            thread = threading.Thread(target=_sleep, args=(team, ready, self._end), name="idle team", daemon=True)
            thread.start()
            self._threads.append(thread)
        ready.wait()


def _sleep(team: int, ready: threading.Barrier, end: threading.Event) -> None:
    """Makes a team of OpenMP threads, which lives as long as this thread, and sleeps."""
    import torch

    torch.zeros(team * _GRAIN + 1).add_(1)
    ready.wait()
    end.wait()


def _read_stat() -> str:
    return _STAT.read_text(encoding="ascii")


class OtherLoad:
    """How many of the cores that this process may use are in use by others, kcv's own other processes among them.

    Args:
        stat: reads what the kernel has counted, the content of `/proc/stat`.
        own: seconds of processor time of this process.
        clock: seconds of the wall clock.

    Raises:
        OSError: what the kernel has counted cannot be read.
        ValueError: it is of another form.
    """

    def __init__(
        self,
        stat: Callable[[], str] = _read_stat,
        own: Callable[[], float] = time.process_time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cores = bound_cores()
        self._stat, self._own, self._clock = stat, own, clock
        self._last = self._now()

    def __call__(self) -> float:
        """Returns the mean since the last call, in cores."""
        busy, own, now = self._now()
        was_busy, was_own, then = self._last
        self._last = busy, own, now
        return max(0.0, busy - was_busy - (own - was_own)) / max(now - then, _TICK_S)

    def _now(self) -> tuple[float, float, float]:
        return busy_seconds(self._stat(), self._cores), self._own(), self._clock()


def busy_seconds(stat: str, cores: set[int]) -> float:
    r"""Returns the seconds that cores have worked since the machine was started.

    Args:
        stat: the content of `/proc/stat`, see proc_stat(5): a line per core, with its time in user mode, of lower
            priority, in the kernel, idle, waiting for disks, and in two kinds of interrupts, in hundredths of a second.
        cores: their numbers.

    Example:
        >>> busy_seconds("cpu  9 0 0 0 0 0 0\ncpu0 100 0 50 700 0 0 0\ncpu1 9 0 0 0 0 0 0\n", {0})
        1.5
    """
    ticks = 0
    for line in stat.splitlines():
        name, *counts = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in cores:
            user, low, kernel, _, _, hard, soft = map(int, counts[:7])
            ticks += user + low + kernel + hard + soft
    return ticks * _TICK_S


def _follow(teams: IdleTeams, start: Callable[[], Callable[[], float]], level: int) -> None:
    try:
        load = start()
        while True:
            time.sleep(_INTERVAL_S)
            look(teams, load(), level)
    except (OSError, ValueError) as error:  # a system whose counts are of another form, or may not be read
        _log.debug("the load of the machine cannot be followed: %s", error)
        teams.set(False)


def look(teams: IdleTeams, others: float, level: int) -> None:
    """Lets threads give way, or spin again, as the load asks.

    Args:
        teams: what makes them give way.
        others: how many cores other processes use.
        level: the level of the log for the first time that they give way.
    """
    if not teams.present and others >= _BUSY:
        first = not teams.were_present
        teams.set(True)
        _log.log(
            level if first else logging.DEBUG,
            "other processes use %.1f of %s cores (kcv's own workers count too); threads give way to them",
            others, len(bound_cores()),
        )  # fmt: skip
    elif teams.present and others < _QUIET:
        teams.set(False)
        _log.debug("no other process computes: threads no longer give way")
