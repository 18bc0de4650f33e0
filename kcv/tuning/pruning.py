"""Which trials are stopped early, and which go on: successive halving, or the median rule.

A rule is a function of the trials alone: a search that is continued decides as one that was not interrupted.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Container, Sequence
from typing import Final, Literal, TypeAlias

from kcv.config.sections import OptimConfig
from kcv.tuning.trials import Order, Trial

Pruner: TypeAlias = Literal["asha", "median", "none"]

_REDUCTION: Final = 3
"""One of so many trials goes on at each rung, as in Hyperband (Li et al., JMLR 18, 2018)."""

_MOST_HALVINGS: Final = 3
_FEWEST: Final = 4
"""Finished trials before the median rule stops any."""


def rule_of(pruner: Pruner, epochs: int, order: Order, earliest: int = 1) -> Rule:
    """Returns the rule of a name.

    Args:
        pruner: its name.
        epochs: the epochs of a whole trial.
        order: the order of the trials.
        earliest: the first epoch after which trials are compared.
    """
    if pruner == "asha":
        return SuccessiveHalving(epochs, order, earliest)
    return MedianRule(epochs, order, earliest) if pruner == "median" else Rule(epochs)


def earliest_of(optim: OptimConfig, epochs: int, frozen: int) -> int:
    """Returns the first epoch after which trials are compared: that in which the learning rate reaches its peak.

    Before that, a trial with a lower peak is ahead of those that will overtake it.

    Args:
        optim: the schedule.
        epochs: the epochs of a whole trial.
        frozen: how many of them, from the first, train the head alone.
    """
    return max(1, frozen + math.ceil(optim.warmup_in(epochs - frozen)))


class Rule:
    """Decides how far trials go: this one lets each go to its end, the others stop some early.

    Args:
        epochs: the epochs of a whole trial.
    """

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def first(self) -> int:
        """Returns the epoch up to which a new trial goes."""
        return self.epochs

    def stops(self, trial: Trial, trials: Sequence[Trial]) -> bool:
        """Returns whether a trial is stopped at its last epoch, for good."""
        return False

    def next(self, trials: Sequence[Trial], free: Container[int]) -> tuple[Trial, int] | None:
        """Returns a waiting trial that may go on, and up to which epoch; None if there is none.

        Args:
            trials: all trials of the study.
            free: numbers of those that can be continued here and now.
        """
        return None

    def last(self, trials: Sequence[Trial], free: Container[int]) -> tuple[Trial, int] | None:
        """Returns a waiting trial that goes to its end where there is nothing else to do; None if there is none."""
        return None

    def leader(self, trials: Sequence[Trial], free: Container[int]) -> Trial | None:
        """Returns a waiting trial that has beaten all others so far; None if there is none."""
        return None


class MedianRule(Rule):
    """Stops a trial whose best monitor is worse than the median of the finished ones at the same epoch.

    Source: the median stopping rule of Golovin et al., Google Vizier, KDD 2017.

    Args:
        epochs: the epochs of a whole trial.
        order: the order of the trials.
        earliest: the first epoch after which trials are compared.
    """

    def __init__(self, epochs: int, order: Order, earliest: int = 1) -> None:
        super().__init__(epochs)
        self._order = order
        self._begins = max(earliest, round(epochs / _REDUCTION**2))

    def stops(self, trial: Trial, trials: Sequence[Trial]) -> bool:
        """Returns whether a trial is stopped at its last epoch, for good; the user's own trial never is."""
        epoch, value = trial.epochs, trial.value
        if trial.default or value is None or not self._begins <= epoch < self.epochs:
            return False
        finished = [other for other in trials if other.state == "complete" and other.number != trial.number]
        others = [other.values[epoch] for other in finished if epoch in other.values]
        return len(others) >= _FEWEST and self._order.better(statistics.median(others), value)


class SuccessiveHalving(Rule):
    """Asynchronous successive halving: at each rung the best third of the trials goes on.

    A trial waits at a rung until it is among the best third of all that have reached it, and then continues where it
    stopped. Source: Li et al., A System for Massively Parallel Hyperparameter Tuning, MLSys 2020, algorithm 2. Unlike
    there, the user's own trial goes to its end at once.

    Args:
        epochs: the epochs of a whole trial.
        order: the order of the trials.
        earliest: the first epoch after which trials are compared.
    """

    def __init__(self, epochs: int, order: Order, earliest: int = 1) -> None:
        super().__init__(epochs)
        self._order = order
        rungs = {epochs, *(round(epochs / _REDUCTION**halvings) for halvings in range(_MOST_HALVINGS, 0, -1))}
        self.rungs: list[int] = sorted(rung for rung in rungs if rung == epochs or rung >= earliest)

    def first(self) -> int:
        """Returns the epoch up to which a new trial goes: the first rung."""
        return self.rungs[0]

    def next(self, trials: Sequence[Trial], free: Container[int]) -> tuple[Trial, int] | None:
        """Returns the best trial that may leave its rung, from the highest rung down; None if there is none."""
        for rung, goal in reversed(list(zip(self.rungs, self.rungs[1:], strict=False))):
            here = self._order.ranked([trial for trial in trials if not trial.default], rung)
            for trial in here[: len(here) // _REDUCTION]:
                if trial.waits and trial.target == rung and trial.number in free:
                    return trial, goal
        return None

    def last(self, trials: Sequence[Trial], free: Container[int]) -> tuple[Trial, int] | None:
        """Returns the best waiting trial of the highest rung: where no other was left, it goes to its end."""
        others = [trial for trial in trials if not trial.default]
        if any(trial.state == "complete" for trial in others):
            return None
        for rung in reversed(self.rungs[:-1]):
            waiting = [one for one in others if one.waits and one.target == rung and one.number in free]
            if ranked := self._order.ranked(waiting, rung):
                return ranked[0], self.epochs
        return None

    def leader(self, trials: Sequence[Trial], free: Container[int]) -> Trial | None:
        """Returns the best trial of the highest rung if it waits there; None otherwise."""
        others = [trial for trial in trials if not trial.default]
        for rung in reversed(self.rungs[:-1]):
            if ranked := self._order.ranked(others, rung):
                top = ranked[0]
                return top if top.waits and top.target == rung and top.number in free else None
        return None
