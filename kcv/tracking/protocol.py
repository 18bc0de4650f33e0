"""What a training asks of whatever takes it down."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

Status: TypeAlias = Literal["FINISHED", "FAILED", "KILLED"]


class Tracker(Protocol):
    """Takes down one run, without making it wait.

    To continue a run later, keep `run_id or spool` as it is at that time, and give it to the `start` of a new tracker
    of the same store. `run_id` may stay None for as long as a server does not answer; `spool` is known from `start`
    on, and stands for the run that will be made of it, whether it has been by then or not.

    Attributes:
        location: where a person finds the run, without credentials; None where nothing is kept.
        run_id: of the run in the store; None until it is known.
        spool: the name that the run can be continued by as long as `run_id` is None; None where nothing is kept.
    """

    location: str | None

    @property
    def run_id(self) -> str | None:
        """Of the run in the store; None until it is known."""

    @property
    def spool(self) -> str | None:
        """The name that the run can be continued by as long as `run_id` is None."""

    def start(
        self, run_name: str, params: Mapping[str, Any], tags: Mapping[str, str], run_id: str | None = None
    ) -> None:
        """Opens the run, or goes on with one.

        Args:
            run_name: of a new run.
            params: of the run; where it has values already, those stay.
            tags: of the run; new values replace old ones.
            run_id: the `run_id` or `spool` of the tracker of the run to continue. It is set running again, and figures
                of steps that it holds are not added a second time.

        Raises:
            TrackingError: the store cannot be used.
        """

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Adds numbers of one step (an epoch)."""

    def log_artifacts(self, path: Path) -> None:
        """Adds a file, or all files of a folder, as they are when they are delivered."""

    def finish(self, status: Status = "FINISHED") -> None:
        """Closes the run; doing so twice is harmless."""


class NoTracker:
    """Keeps nothing (`--tracking=none`)."""

    location: str | None = None
    run_id: str | None = None
    spool: str | None = None

    def start(
        self, run_name: str, params: Mapping[str, Any], tags: Mapping[str, str], run_id: str | None = None
    ) -> None:
        """Does nothing."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Does nothing."""

    def log_artifacts(self, path: Path) -> None:
        """Does nothing."""

    def finish(self, status: Status = "FINISHED") -> None:
        """Does nothing."""
