"""What is known about the trials of a study, and the order among them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

State: TypeAlias = Literal["open", "complete", "diverged", "failed"]
"""`open`: it runs, or waits for its turn, or was stopped early; it can go on."""


@dataclass(frozen=True)
class Trial:
    """One configuration that is tried.

    Attributes:
        number: its number in the study, from 0; trial 0 is what the user has.
        params: the searched values by dotted key; empty if the user's own ones are not in the space.
        target: the epoch (from 1) up to which it may go for now.
        values: the best monitor so far, by epoch from 1.
        state: see `State`.
        owner: the coordinator that has its run folder.
        default: whether it is what the user has.
        loss: the validation loss of its best epoch; None if it is not known.
        message: why it failed or diverged.
        seconds: time of its epochs so far.
        key: its identity in the storage.
    """

    number: int
    params: Mapping[str, Any]
    target: int
    values: Mapping[int, float] = field(default_factory=dict)
    state: State = "open"
    owner: str = ""
    default: bool = False
    loss: float | None = None
    message: str = ""
    seconds: float = 0.0
    key: int = 0

    @property
    def epochs(self) -> int:
        """The number of epochs that are known."""
        return max(self.values, default=0)

    @property
    def value(self) -> float | None:
        """The best monitor so far; None before the first epoch."""
        return self.values.get(self.epochs)

    @property
    def waits(self) -> bool:
        """Whether it has come as far as it may, and could go on."""
        return self.state == "open" and self.epochs >= self.target


@dataclass(frozen=True)
class Order:
    """Compares trials.

    Attributes:
        higher: whether a higher monitor is better.
    """

    higher: bool

    def better(self, one: float, other: float) -> bool:
        """Returns whether a monitor is strictly better than another."""
        return one > other if self.higher else one < other

    def ranked(self, trials: Iterable[Trial], epoch: int | None = None) -> list[Trial]:
        """Returns the trials from the best to the worst by their monitor; those without one are left out.

        Of equal ones the lower validation loss comes first, as among epochs (`kcv.metrics.standing`), then the earlier
        trial.

        Args:
            trials: the trials.
            epoch: the epoch whose best monitor counts; None for the last one of each trial.
        """
        known = []
        for trial in trials:
            value = trial.value if epoch is None else trial.values.get(epoch)
            if value is not None:
                loss = trial.loss if epoch is None and trial.loss is not None else 0.0
                known.append(((-value if self.higher else value, loss, trial.number), trial))
        return [trial for _, trial in sorted(known, key=lambda pair: pair[0])]

    def best(self, trials: Iterable[Trial]) -> Trial | None:
        """Returns the best trial that has come to its end; None if there is none."""
        return next(iter(self.ranked(trial for trial in trials if trial.state == "complete")), None)
