"""Several trackers of one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kcv.tracking.data_record import DataRecord
from kcv.tracking.tracker import State, Status, Tracker, run_in


class SeveralTrackers(Tracker):
    """Passes every call to each of several trackers, none of which waits or raises after its start.

    Args:
        trackers: two or more. The first one that keeps models is the main one, whose run other runs are shown below.
    """

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = tuple(trackers)
        self._main = next((tracker for tracker in trackers if tracker.keeps_models), trackers[0])
        self.location = ", ".join(str(tracker.location) for tracker in trackers)
        self.keeps_models = self._main.keeps_models

    def start(self, run_name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Opens or resumes the run with each tracker; if one refuses, it ends with the others.

        Raises:
            TrackingError: one of them cannot record the run as asked.
        """
        started: list[Tracker] = []
        try:
            for tracker in self._trackers:
                tracker.start(run_name, params, tags)
                started.append(tracker)
        except BaseException:
            for tracker in started:
                tracker.finish("FAILED")
            raise

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Logs metrics of one step."""
        for tracker in self._trackers:
            tracker.log_metrics(metrics, step)

    def log_artifacts(self, path: Path) -> None:
        """Logs a file, or all files of a folder."""
        for tracker in self._trackers:
            tracker.log_artifacts(path)

    def log_datasets(self, records: Sequence[DataRecord]) -> None:
        """Logs which data the run uses."""
        for tracker in self._trackers:
            tracker.log_datasets(records)

    def log_model(
        self, files: Mapping[str, Path | str], *, register: str | None = None, alias: str | None = None
    ) -> None:
        """Logs the finished model with those that keep models."""
        for tracker in self._trackers:
            tracker.log_model(files, register=register, alias=alias)

    def finish(self, status: Status = "FINISHED") -> None:
        """Closes the run."""
        for tracker in self._trackers:
            tracker.finish(status)

    def state_dict(self) -> State:
        """Returns the state of the main tracker, and the run of each other one under its location."""
        state = dict(self._main.state_dict())
        for tracker in self._trackers:
            if tracker is not self._main:
                state[str(tracker.location)] = tracker.state_dict().get("run")
        return state

    def load_state_dict(self, state: Mapping[str, str | None]) -> None:
        """Makes `start` resume the runs of a state, of these trackers or others."""
        for tracker in self._trackers:
            tracker.load_state_dict({"location": tracker.location, "run": run_in(state, tracker.location)})
