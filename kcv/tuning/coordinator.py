"""The search: which trial runs next and how far, from what is known about all of them.

All that a decision depends on is in the storage before it is made. So a search whose coordinator was killed goes on as
it would have gone on: with one worker and without a limit in minutes, it ends with the same trials and the same values.
"""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from kcv import errors
from kcv.common.text import setting
from kcv.errors import KcvError
from kcv.metrics.standing import Standing, standing
from kcv.tuning.pruning import Rule
from kcv.tuning.running import Ending, Report, Runner
from kcv.tuning.sampling import suggest
from kcv.tuning.space import Space
from kcv.tuning.storage import Storage
from kcv.tuning.trials import Order, State, Trial

_log = logging.getLogger(__name__)

_MOST_DEATHS: Final = 3
"""Times that a trial is continued after its process died."""

_CAUTION: Final = 1.15
"""Factor on predicted times."""

_MOST_FAILURES: Final = 5
"""Trials in a row that may fail before the search is given up."""


@dataclass(frozen=True)
class Budget:
    """When a search ends.

    Attributes:
        trials: the number of trials that are begun, by all coordinators together; None for any number.
        deadline: when the running trials are stopped, as `time.monotonic()` counts; infinity for never.
        workers: trials that run at the same time.
    """

    trials: int | None
    deadline: float = math.inf
    workers: int = 1


@dataclass(frozen=True)
class Plan:
    """What is searched, and how.

    Attributes:
        space: the search space.
        default: the user's own values; empty if they are not in the space.
        rule: which trials are stopped early.
        order: the order of the trials.
        epochs: epochs of a whole trial; in folds, their number: what is said of epochs below is then said of folds.
        monitor: the column of `history.csv` that is optimised.
        seed: decides the random numbers.
        owner: the name of this coordinator among those that share the storage.
        unit: what a trial comes through: `epoch`, where its value is the best monitor so far; or `fold`, where it is
            the mean so far.
        keep: the epoch whose monitor is a trial's value, as in `train.keep`.
    """

    space: Space
    default: Mapping[str, object]
    rule: Rule
    order: Order
    epochs: int
    monitor: str
    seed: str
    owner: str
    unit: Literal["epoch", "fold"] = "epoch"
    keep: Literal["best", "last"] = "best"


class Coordinator:
    """Begins, stops and continues trials, and notes what comes of them.

    Args:
        plan: what is searched.
        budget: when the search ends.
        storage: the trials; survives this process.
        runner: runs the trials.
        stop_requested: returns whether the user wants to stop.
        changed: called when a trial has come to an end, or waits.
        clock: returns seconds, as the deadline of the budget counts them.
    """

    def __init__(
        self,
        plan: Plan,
        budget: Budget,
        storage: Storage,
        runner: Runner,
        stop_requested: Callable[[], bool] = lambda: False,
        changed: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plan = plan
        self._budget = budget
        self._storage = storage
        self._runner = runner
        self._stop_requested = stop_requested
        self._changed = changed
        self._slots: dict[int, bool] = {}  # the number of a running trial -> whether it was asked to stop
        self._deaths: dict[int, int] = {}
        self._failures = 0
        self._clock = clock
        self._began: dict[int, float] = {}  # when a running trial was started, less the seconds of its epochs before
        self._overheads: list[float] = []  # seconds from a start to the end of the process, without the noted epochs
        self._last: int | None = None  # the trial that goes to its end although the time is over

    def search(self) -> bool:
        """Searches until the budget is used up, or nothing is left to try.

        Returns:
            Whether it came to its end; False if the user wanted to stop.

        Raises:
            KcvError: the user's own configuration cannot be trained, or nothing can be written any more. What has been
                done is kept.
        """
        try:
            while not self._stop_requested():
                if self._clock() < self._budget.deadline:
                    self._fill()
                elif not self._finishes():
                    return True
                if not self._slots:
                    return True
                for number in list(self._slots):
                    self._look(number)
                self._runner.wait()
            return False
        finally:
            self._runner.end()
            self._slots.clear()

    def _finishes(self) -> bool:
        """Lets the trial that has come furthest go to its end, where none has in time but the user's own.

        Without it, nothing could be said of what was searched: a trial on its way cannot be compared with a whole one.

        Returns:
            Whether it still has to; False if the search is over.
        """
        trials = self._storage.trials()
        if self._last is None:
            self._last = self._furthest(trials)
            if self._last is None:
                _log.info("search     the time is over")
                return False
            _log.info(
                "search     the time is over; trial %d, the best, goes on, as none has come to its end", self._last
            )
            for number in self._slots.keys() - {self._last}:
                self._runner.stop(number)
                self._slots[number] = True
        last = self._storage.trial(self._last)
        if last.state != "open":
            return False
        if last.number not in self._slots:
            self._start(self._storage.aim(last, self._plan.epochs))
        elif last.target < self._plan.epochs:
            self._storage.aim(last, self._plan.epochs)
        return True

    def _furthest(self, trials: Sequence[Trial]) -> int | None:
        """Returns the trial that has come furthest, the best of these; None if one has come to its end, or none can."""
        done = {trial.default for trial in trials if trial.state == "complete"}
        if done != {True}:  # where not even the user's own has come to its end, a whole trial takes too long
            return None
        ways = [trial for trial in self._own(trials) if trial.state == "open" and trial.epochs and not trial.default]
        most = max((trial.epochs for trial in ways), default=0)
        ranked = self._plan.order.ranked(trial for trial in ways if trial.epochs == most)
        return ranked[0].number if ranked else None

    def _fill(self) -> None:
        """Starts trials in the free slots. The first one shows that the data and the machine are fit for the others."""
        while len(self._slots) < self._budget.workers:
            trials = self._storage.trials()
            if self._slots and not any(trial.epochs or trial.state != "open" for trial in self._own(trials)):
                return
            trial = self._next(trials)
            if trial is None:
                return
            self._start(trial)

    def _next(self, trials: Sequence[Trial]) -> Trial | None:
        """Returns the trial that is to run next: one that was interrupted, one that may go on, or a new one."""
        plan = self._plan
        free = {trial.number for trial in self._own(trials) if trial.state == "open"} - self._slots.keys()
        for trial in trials:
            if trial.number in free and (not trial.waits or trial.target >= plan.epochs):
                if not plan.rule.stops(trial, trials):
                    return trial
                self._stop_for_good(trial)
        promoted = plan.rule.next(trials, free)
        if (leader := self._in_time(trials, free, promoted)) is not None:
            return self._promote(leader, plan.epochs)
        if promoted is not None:
            return self._promote(*promoted)
        if self._budget.trials is None or len(trials) < self._budget.trials:
            return self._begin(trials)
        if not self._slots and (promoted := plan.rule.last(trials, free)) is not None:
            return self._promote(*promoted)
        return None

    def _in_time(
        self, trials: Sequence[Trial], free: Collection[int], promoted: tuple[Trial, int] | None
    ) -> Trial | None:
        """Returns the leading trial if it must go on now to come to its end in time; None if it need not, or cannot.

        Args:
            trials: all trials.
            free: numbers of those that can be continued.
            promoted: what would run otherwise, and up to which epoch; None for a new trial.
        """
        if self._budget.deadline == math.inf or not self._overheads:
            return None
        leader = self._plan.rule.leader(trials, free)
        paces = [trial.seconds / trial.epochs for trial in trials if trial.epochs]
        if leader is None or not paces:
            return None
        pace, overhead = _CAUTION * statistics.median(paces), _CAUTION * statistics.median(self._overheads)
        needed = overhead + (self._plan.epochs - leader.epochs) * pace
        left = self._budget.deadline - self._clock()
        if promoted is None:
            another = overhead + self._plan.rule.first() * pace
        elif promoted[0].number == leader.number:  # its epochs are needed anyway, but a stop costs another start
            another = overhead
        else:
            another = overhead + (promoted[1] - promoted[0].epochs) * pace
        return leader if needed <= left < needed + another else None

    def _begin(self, trials: Sequence[Trial]) -> Trial:
        """Adds a new trial: the user's own configuration first, then what the sampler suggests."""
        plan = self._plan
        if not trials:
            params = {key: plan.default[key] for key in plan.space.parameters if key in plan.default}
            return self._storage.create(params, target=plan.epochs, owner=plan.owner, default=True)
        running = {trial.number for trial in trials if trial.state == "open" and not trial.waits}
        found = suggest(plan.space, trials, running, plan.order, plan.seed)
        return self._storage.create(found, target=plan.rule.first(), owner=plan.owner, default=False)

    def _promote(self, trial: Trial, target: int) -> Trial:
        _log.info("trial %-4d goes on to %s %d", trial.number, self._plan.unit, target)
        return self._storage.aim(trial, target)

    def _start(self, trial: Trial) -> None:
        what = (
            ", ".join(f"{key}={setting(value)}" for key, value in trial.params.items()) or "the configuration as it is"
        )
        if not trial.values:
            _log.info("trial %-4d %s", trial.number, what)
        self._runner.start(trial)
        self._slots[trial.number] = False
        self._began[trial.number] = self._clock() - trial.seconds

    def _look(self, number: int) -> None:
        """Notes the new epochs of a running trial, and decides whether it goes on."""
        report = self._runner.look(number)
        if not self._slots[number]:
            self._take(number, report)
        if number in self._slots and report.ending is not None:
            asked = self._free(number)
            if not asked:
                self._conclude(self._storage.trial(number), report.ending, report.rows)

    def _take(self, number: int, report: Report) -> None:
        """Notes epochs up to the trial's target; there it goes on at once if it may, or waits."""
        trial = self._storage.trial(number)
        while trial.epochs < min(len(report.rows), trial.target):
            trial = self._note(trial, report.rows[: trial.epochs + 1])
            trials = self._storage.trials()
            if self._plan.rule.stops(trial, trials):
                self._stop_for_good(trial)
                self._leave(trial, report)
                return
            if trial.epochs == trial.target < self._plan.epochs:
                promoted = self._plan.rule.next(trials, {number} | self._waiting(trials))
                if promoted is None or promoted[0].number != number:
                    self._leave(trial, report)
                    return
                trial = self._promote(*promoted)

    def _leave(self, trial: Trial, report: Report) -> None:
        """Lets a trial wait: its process ends with a checkpoint."""
        _log.info("trial %-4d waits at %s %d with %s", trial.number, self._plan.unit, trial.epochs, self._named(trial))
        self._failures = 0
        if report.ending is None:
            self._runner.stop(trial.number)
            self._slots[trial.number] = True
        else:
            self._free(trial.number)
        self._changed()

    def _free(self, number: int) -> bool:
        """Takes a trial whose process has ended out of its slot, and returns whether it was asked to stop."""
        passed = self._clock() - self._began.pop(number)
        self._overheads.append(max(0.0, passed - self._storage.trial(number).seconds))
        return self._slots.pop(number)

    def _stop_for_good(self, trial: Trial) -> None:
        self._storage.aim(trial, trial.epochs)

    def _note(self, trial: Trial, rows: Sequence[Mapping[str, float]]) -> Trial:
        """Stores the monitor of the best one of these rows, or of the last one."""
        best = self._best(rows)
        higher = self._plan.order.higher
        value = (best[0] if higher else -best[0]) if best is not None else (-math.inf if higher else math.inf)
        loss = -best[1] if best is not None else None
        if not math.isfinite(value):
            value, loss = (0.0 if higher else 1e9), None  # an epoch without a finite monitor is never the better one
        seconds = sum(row.get("seconds", 0.0) for row in rows)
        return self._storage.note(trial, trial.epochs + 1, value, loss, seconds)

    def _best(self, rows: Sequence[Mapping[str, float]]) -> Standing | None:
        monitor = self._plan.monitor
        if monitor not in rows[-1]:
            raise KcvError(f"train.monitor: received {monitor!r}, allowed for tune: a column of history.csv.")
        # Of folds, each row is a mean up to it.
        counted = rows if (self._plan.unit, self._plan.keep) == ("epoch", "best") else rows[-1:]
        found = [standing(row, monitor, higher=self._plan.order.higher) for row in counted]
        return max((one for one in found if one is not None), default=None)

    def _conclude(self, trial: Trial, ending: Ending, rows: Sequence[Mapping[str, float]]) -> None:
        """Notes how a trial has ended that nobody asked to stop."""
        if ending.status == "finished" and trial.values:
            self._end(trial, "complete", f"ended with {self._named(trial)} after {trial.epochs} {self._plan.unit}s")
        elif ending.status == "diverged":
            self._end(trial, "diverged", f"diverged: {ending.message}", ending.message)
        elif ending.status == "broken":
            raise _as_error(ending)
        elif ending.status in ("stopped", "died"):
            self._deaths[trial.number] = self._deaths.get(trial.number, 0) + 1
            if self._deaths[trial.number] >= _MOST_DEATHS:
                self._fail(trial, ending)
            else:
                _log.warning("trial %-4d %s; it goes on from its checkpoint", trial.number, ending.message)
        else:
            self._fail(trial, ending)

    def _fail(self, trial: Trial, ending: Ending) -> None:
        message = ending.message or "it left no epoch"
        self._failures += 1
        if trial.default and not trial.values and ending.status != "died":
            raise _as_error(ending)
        self._end(trial, "failed", f"failed: {message}", message)
        if self._failures >= _MOST_FAILURES:
            raise KcvError(f"{self._failures} trials in a row failed; the last one: {message}")

    def _end(self, trial: Trial, state: State, told: str, message: str = "") -> None:
        self._storage.end(trial, state, message)
        _log.info("trial %-4d %s", trial.number, told)
        if state != "failed":
            self._failures = 0
        self._changed()

    def _own(self, trials: Sequence[Trial]) -> list[Trial]:
        return [trial for trial in trials if trial.owner == self._plan.owner]

    def _waiting(self, trials: Sequence[Trial]) -> set[int]:
        return {trial.number for trial in self._own(trials) if trial.waits} - self._slots.keys()

    def _named(self, trial: Trial) -> str:
        return f"{self._plan.monitor} {trial.value:.4f}"


def _as_error(ending: Ending) -> KcvError:
    """Returns the error of a trial's process, for the user."""
    return errors.DataError(ending.message) if ending.status == "broken" else KcvError(ending.message)
