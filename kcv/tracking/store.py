"""The interface of a tracking service. Outbox, sender and resumption work with every implementation."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kcv.tracking.data_record import DataRecord
from kcv.tracking.outbox import Entry


class StoreUnavailable(Exception):
    """The service is unavailable now, but may be available later."""


class StoreRejected(Exception):
    """The service has rejected a call.

    Attributes:
        of_entry: whether it rejects this entry and will always do so; otherwise it may accept the same entry later.
    """

    def __init__(self, message: str, *, of_entry: bool) -> None:
        super().__init__(message)
        self.of_entry = of_entry


@dataclass(frozen=True)
class RunInfo:
    """The description of a run: the first line of an outbox.

    Attributes:
        experiment: name of its experiment.
        name: display name.
        time: start time in milliseconds.
        params: parameters of the run.
        tags: tags of the run.
        run_id: ID of the run to continue.
        continues: name of the outbox of the run to continue.
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
        """Returns the description in an entry; None if the entry describes no run."""
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

    All methods except `prepare` are called on the sender's thread, and may be called again after a lost response; the
    second call must change nothing. They raise StoreUnavailable or StoreRejected, and no other foreseeable error.

    Attributes:
        location: location of the runs for users, without credentials.
        remote: whether it is a server, which may be unavailable; a starting run waits only a few seconds for it.
        keeps_models: whether it keeps models as such: `log_model_file` and `register_model` are called.
    """

    location: str
    remote: bool = True
    keeps_models: bool = False

    def prepare(self) -> None:  # noqa: B027
        """Imports libraries and checks the service; called on the main thread before anything is sent.

        Raises:
            TrackingError: the service cannot be used.
        """

    @abstractmethod
    def open_run(self, run: RunInfo, key: str, run_id: str | None) -> str:
        """Creates or finds a run, and describes it.

        Args:
            run: description of the run. Its existing parameters stay unchanged; a resumed run is set to running again.
            key: key by which to find the run if it was created but its ID is unknown.
            run_id: ID of the run, if known.

        Returns:
            The ID of the run.
        """

    @abstractmethod
    def log_metrics(self, run_id: str, metrics: Mapping[str, float], step: int, timestamp: int) -> None:
        """Logs metrics of one step; `timestamp` is in milliseconds."""

    @abstractmethod
    def log_artifact(self, run_id: str, path: Path, folder: str | None) -> None:
        """Logs a file to a folder of the run's files."""

    def log_dataset(self, run_id: str, record: DataRecord) -> None:  # noqa: B027
        """Logs which data the run uses one split for; a store without a place for that leaves it out."""

    def log_model_file(self, run_id: str, content: Path | str, place: str) -> None:  # noqa: B027
        """Logs a file of the run's model.

        Args:
            run_id: ID of the run.
            content: the file, or the text that it holds.
            place: its path in the folder of the model; of a file, it ends in the file's own name.
        """

    def register_model(self, run_id: str, name: str, alias: str | None) -> None:  # noqa: B027
        """Registers the run's model as a new version of a named one, once all of its files are logged.

        Args:
            run_id: ID of the run.
            name: name of the registered model, which is created if it does not exist.
            alias: alias that is moved to the new version; None for none.
        """

    @abstractmethod
    def end_run(self, run_id: str, status: str, timestamp: int) -> None:
        """Closes a run."""

    def logged_steps(self, run_id: str, metric: str) -> set[int]:
        """Returns the logged steps of a run's metric; they are not sent again if the run is resumed."""
        return set()
