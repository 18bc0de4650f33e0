"""A tracking service as its sender sees it. Whoever writes one gets outbox, sender and resumption for nothing."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kcv.tracking.outbox import Entry


class StoreUnavailable(Exception):
    """The service cannot be reached or used now; it may be later."""


class StoreRejected(Exception):
    """The service has said no.

    Attributes:
        of_entry: to what it was sent, and will do so again; else it may take the same another time.
    """

    def __init__(self, message: str, *, of_entry: bool) -> None:
        super().__init__(message)
        self.of_entry = of_entry


@dataclass(frozen=True)
class RunInfo:
    """What a run is made of: the first line of an outbox.

    Attributes:
        experiment: that it belongs to.
        name: for people.
        time: when it began, in milliseconds.
        params: of the run.
        tags: of the run.
        run_id: of the run to continue.
        continues: the name of the outbox that the run to continue is made of.
    """

    experiment: str
    name: str
    time: int
    params: dict[str, str]
    tags: dict[str, str]
    run_id: str | None
    continues: str | None

    @classmethod
    def parse(cls, entry: Entry) -> RunInfo | None:
        """Returns what an entry says; None where it describes no run."""
        match entry:
            case {
                "kind": "run", "experiment": str(), "name": str(), "time": int(), "params": dict() as params,
                "tags": dict() as tags, "run_id": None | str(), "continues": None | str(),
            } if all(isinstance(text, str) for text in (*params.values(), *tags.values())):  # fmt: skip
                return cls(**{field.name: entry[field.name] for field in dataclasses.fields(cls)})
        return None

    @property
    def is_resumed(self) -> bool:
        """Whether this continues a run."""
        return bool(self.run_id or self.continues)


class Store(ABC):
    """A tracking service.

    All methods but `prepare` are called on the sender's thread, and may be called again after a lost answer: the second
    call must change nothing. They raise StoreUnavailable or StoreRejected, and no other error that can be foreseen.

    Attributes:
        location: where a person finds the runs, without credentials.
        remote: a server, which may come and go; at its start, a run waits for it a few seconds only.
    """

    location: str
    remote: bool = True

    def prepare(self) -> None:  # noqa: B027
        """Imports and checks what is needed; on the main thread, before anything is sent.

        Raises:
            TrackingError: the service cannot be used.
        """

    @abstractmethod
    def open_run(self, run: RunInfo, key: str, run_id: str | None) -> str:
        """Makes a run, or finds it, and describes it.

        Args:
            run: what it is made of. Parameters that it has stay as they are; a run that is resumed runs again.
            key: what the run is found by, where it has been made but its id is not known.
            run_id: of the run, where that is known.

        Returns:
            The id of the run.
        """

    @abstractmethod
    def log_metrics(self, run_id: str, metrics: Mapping[str, float], step: int, timestamp: int) -> None:
        """Adds numbers of one step; `timestamp` is in milliseconds."""

    @abstractmethod
    def log_artifact(self, run_id: str, path: Path, folder: str | None) -> None:
        """Adds a file, in a folder of the run's files."""

    @abstractmethod
    def end_run(self, run_id: str, status: str, timestamp: int) -> None:
        """Closes a run."""

    def logged_steps(self, run_id: str, metric: str) -> set[int]:
        """Returns the steps of a metric that a run holds; where it is resumed, these are not sent again."""
        return set()
