"""Runs trials: each is a process that trains in folders of its own, and can be stopped and continued."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Literal, Protocol, TypeAlias

import kcv
from kcv.config import Config
from kcv.errors import KcvError, OutputError
from kcv.reporting.material import read_history
from kcv.training.resume.lock import lock
from kcv.training.run_folder import RunFolder
from kcv.tuning.trial_folds import TrialFolds
from kcv.tuning.trials import Trial

_log = logging.getLogger(__name__)

Status: TypeAlias = Literal["finished", "diverged", "stopped", "refused", "broken", "died"]
"""How a process ended: `refused` is a configuration that cannot be trained, `broken` what concerns all trials (a full
disk, data that are gone), `died` a bug or a kill."""

MODULE: Final = "kcv.tasks.trial"
"""The module that a process runs; see there for what it reads and writes."""

_KILL_SECONDS: Final = 120.0
"""Time for a process to write its checkpoint and end."""

_POLL_SECONDS: Final = 0.2

_CAN_ASK: Final = os.name != "nt"
"""Whether a signal asks a process to end. On Windows each ends it at once."""

_KILL: Final = getattr(signal, "SIGKILL", signal.SIGTERM)
"""What ends a process at once."""


@dataclass(frozen=True)
class Ending:
    """How a process ended.

    Attributes:
        status: see `Status`.
        message: one line, if it did not finish.
    """

    status: Status
    message: str = ""


@dataclass(frozen=True)
class Report:
    """How far a trial has come.

    Attributes:
        rows: the rows of its `history.csv`; in folds, a row per fold, see `TrialFolds.rows`.
        ending: how its process ended; None while it runs.
    """

    rows: Sequence[Mapping[str, float]]
    ending: Ending | None = None


class Runner(Protocol):
    """Runs trials."""

    def start(self, trial: Trial) -> None:
        """Begins a trial, or continues it from its checkpoint."""
        ...

    def look(self, number: int) -> Report:
        """Returns how far a started trial has come."""
        ...

    def stop(self, number: int) -> None:
        """Asks a trial to end after its current step, with a checkpoint."""
        ...

    def wait(self) -> None:
        """Waits a moment."""
        ...

    def end(self) -> None:
        """Stops all trials, and waits until they have ended."""
        ...


class Process(Protocol):
    """A started process."""

    @property
    def output(self) -> str:
        """What it has written to standard output, once it has ended."""
        ...

    def poll(self) -> int | None:
        """Returns the exit code, or None while it runs."""
        ...

    def send_signal(self, number: signal.Signals) -> None:
        """Sends a signal, unless it has ended."""
        ...


Launch: TypeAlias = Callable[[int, Path, Mapping[str, str]], Process]
"""Starts `MODULE` with an open file as its standard input, standard error in a file, and additional variables."""


class Children:
    """Runs each trial in a child process.

    A child ends when its standard input ends: also if this process is killed, no training goes on unnoticed.

    Args:
        folder_of: returns the folder of a trial, by its number.
        config_of: returns the configuration of a trial, without its folder.
        place: the working folder.
        threads: threads of each process; None for all.
        launch: starts a process.
        folds: the trainings of a trial, one after another; None for a single one, in the folder itself.
    """

    def __init__(
        self,
        folder_of: Callable[[int], Path],
        config_of: Callable[[Trial], Config],
        place: Path,
        threads: int | None = None,
        launch: Launch | None = None,
        folds: TrialFolds | None = None,
    ) -> None:
        self._folder_of = folder_of
        self._config_of = config_of
        self._folds = folds
        self._threads = threads
        self._launch = launch or _Launcher(place)
        self._running: dict[int, _Child] = {}

    def start(self, trial: Trial) -> None:
        """Begins a trial, or continues it from its checkpoint.

        Raises:
            OutputError: its files cannot be written.
        """
        folder = self._folder_of(trial.number)
        runs = [RunFolder(folder)] if self._folds is None else self._folds.runs(folder)
        if all(run.finished for run in runs):
            self._running[trial.number] = _Child(runs, self._folds)
            return
        order = json.dumps({"runs": self._order(trial, runs)})
        threads = {} if self._threads is None else {"OMP_NUM_THREADS": str(self._threads)}
        reading, writing = os.pipe()
        try:
            process = self._launch(reading, folder.with_name(f"{folder.name}.log"), threads)
        except OSError as error:
            os.close(writing)
            raise OutputError(f"cannot start a trial: {error.strerror or error}") from None
        finally:
            os.close(reading)
        with suppress(BrokenPipeError), open(os.dup(writing), "w", encoding="utf-8") as stream:
            stream.write(order + "\n")
        self._running[trial.number] = _Child(runs, self._folds, process, writing)

    def _order(self, trial: Trial, runs: Sequence[RunFolder]) -> list[dict[str, Any]]:
        """Returns what a process is told to train: what has not ended yet."""
        config = self._config_of(trial)
        configs = [config] if self._folds is None else self._folds.configs(config)
        orders = []
        for run, its in zip(runs, configs, strict=True):
            if run.finished:
                continue
            _wait_for(run)
            resume = os.path.isfile(run.record)
            if not resume and os.path.lexists(run.path):
                shutil.rmtree(run.path, ignore_errors=True)  # killed before there was anything to continue
            placed = its.model_copy(update={"output_dir": run.path.absolute()})
            orders.append({"config": placed.to_dict(), "resume": resume})
        return orders

    def look(self, number: int) -> Report:
        """Returns how far a started trial has come."""
        report = self._running[number].look()
        if report.ending is not None:
            self._running.pop(number).close()
        return report

    def stop(self, number: int) -> None:
        """Asks a trial to end after its current step, with a checkpoint."""
        if number in self._running:
            self._running[number].stop()

    def wait(self) -> None:
        """Waits a moment."""
        time.sleep(_POLL_SECONDS)

    def end(self) -> None:
        """Stops all trials, and waits until they have ended; those that do not are killed."""
        children = list(self._running.values())
        for child in children:
            child.stop()
        deadline = time.monotonic() + _KILL_SECONDS
        while any(child.runs() for child in children):
            if time.monotonic() > deadline:
                for child in children:
                    child.kill()
            time.sleep(_POLL_SECONDS / 4)
        for child in children:
            child.close()
        self._running.clear()


class _Child:
    """A trial whose process was started, or that has finished before.

    Args:
        runs: its run folders.
        folds: what the runs are; None for a single run.
        process: its process; None if it has finished before.
        life: the open file by whose end the process notices that this one has ended.
    """

    def __init__(
        self,
        runs: Sequence[RunFolder],
        folds: TrialFolds | None,
        process: Process | None = None,
        life: int | None = None,
    ) -> None:
        self._runs = runs
        self._folds = folds
        self._process = process
        self._life = life
        self._rows: list[dict[str, float]] = []
        self._seen: object = None

    def look(self) -> Report:
        """Returns how far it has come."""
        code = None if self._process is None else self._process.poll()  # before the history, which is then complete
        with suppress(OSError, KcvError):
            if self._folds is None:
                changed: object = self._runs[0].history.stat().st_mtime_ns
            else:
                changed = [run.finished for run in self._runs]
            if changed != self._seen:
                self._rows, self._seen = self._read(), changed
        if self._process is None:
            return Report(self._rows, Ending("finished"))
        return Report(self._rows, None if code is None else _ending(code, self._process.output))

    def _read(self) -> list[dict[str, float]]:
        return read_history(self._runs[0].history) if self._folds is None else self._folds.rows(self._runs)

    def runs(self) -> bool:
        """Whether the process still runs."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Asks the process to end after its current step."""
        if not _CAN_ASK:
            self.close()  # it notices the end of its standard input
        elif self._process is not None:
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends the process at once."""
        if self._process is not None:
            self._process.send_signal(_KILL)

    def close(self) -> None:
        """Closes the open file."""
        if self._life is not None:
            os.close(self._life)
            self._life = None


def _wait_for(run: RunFolder) -> None:
    """Waits until nobody trains in a run folder: the trials of a killed coordinator need a moment for a checkpoint."""
    deadline = time.monotonic() + _KILL_SECONDS
    while os.path.lexists(run.lock):
        try:
            with lock(run.lock):
                return
        except OutputError:
            if time.monotonic() > deadline:
                raise
        time.sleep(_POLL_SECONDS)


def _ending(code: int, output: str) -> Ending:
    """Returns how a process ended, from its exit code and the line that it wrote."""
    with suppress(ValueError, KeyError, IndexError, TypeError):
        told = json.loads(output.strip().splitlines()[-1])
        return Ending(told["status"], str(told["message"]))
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return Ending("died", f"its process ended with {how}")


class _Launcher:
    """Starts processes by the interpreter that runs this one.

    Args:
        place: their working folder.
    """

    def __init__(self, place: Path) -> None:
        self._place = place

    def __call__(self, stdin: int, log: Path, variables: Mapping[str, str]) -> Process:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as stream:
            # A session of its own, or on Windows a group: Ctrl-C on the terminal is for this process, which tells the
            # others.
            process = subprocess.Popen(
                [sys.executable, "-m", MODULE],
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=stream,
                cwd=self._place,
                env={**os.environ, **_found_again(), **variables},
                start_new_session=os.name != "nt",
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
        return _Started(process)


class _Started:
    """A process of `subprocess`."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._output = ""

    @property
    def output(self) -> str:
        """What it has written to standard output, once it has ended."""
        stream: IO[Any] | None = self._process.stdout
        if stream is not None and not stream.closed:
            self._output = stream.read().decode(errors="replace")
            stream.close()
        return self._output

    def poll(self) -> int | None:
        """Returns the exit code, or None while it runs."""
        return self._process.poll()

    def send_signal(self, number: signal.Signals) -> None:
        """Sends a signal, unless it has ended."""
        self._process.send_signal(number)


def _found_again() -> dict[str, str]:
    """Returns the variable by which a child finds the kcv of this process, wherever that was imported from."""
    root = str(Path(kcv.__file__).resolve().parent.parent)
    return {"PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}
