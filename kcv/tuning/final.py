"""The end of a study: the winner and the user's configuration, trained with several seeds, on the test split.

The search has chosen the winner by the validation split, where it is better by luck as well. So only here, and only
for these runs, the test split is read.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kcv.common.download import is_url
from kcv.common.files import write_json
from kcv.common.untrusted import read_json
from kcv.config import Config
from kcv.errors import DataError, KcvError
from kcv.metrics.significance import Pair, matched_pairs, wilson_interval
from kcv.training.run_folder import RunFolder
from kcv.tuning.running import Children, Launch
from kcv.tuning.study import Configurations, StudyFolder
from kcv.tuning.trials import Trial

_log = logging.getLogger(__name__)

Measure: TypeAlias = Callable[[Mapping[str, Path], str | None], Mapping[str, NDArray[np.bool_]]]
"""Returns for model files by name whether each test image was classified correctly, bool [n]. Raises DataError.

The second argument names the data, with their credentials; None for those of the model files.
"""


@dataclass(frozen=True)
class Comparison:
    """How the winner and the user's configuration do on the test split.

    Attributes:
        rows: per seed and configuration: `who` (`best` or `default`), `seed`, `trial`, `directory`, `accuracy`, and the
            ends of its 95% interval, `accuracy_low` and `accuracy_high`.
        pairs: the winner with the user's configuration, by seed; p-values corrected for their number (Holm).
        images: number of test images.
        notes: what could not be compared.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    images: int = 0
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Job:
    """A training.

    Attributes:
        who: `best` or `default`.
        trial: the trial whose configuration it has.
        seed: its seed.
        folder: its run folder.
    """

    who: str
    trial: Trial
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        """Its name in messages."""
        return f"{self.who}, seed {self.seed}"


class Final:
    """Trains and compares.

    Args:
        folder: the folder of the study.
        configurations: builds the configurations.
        place: the working folder.
        seeds: trainings of each of the two.
        workers: trainings at the same time.
        threads: threads of each; None for all.
        parent: ID of the study's run in MLflow, if there is one.
        measure: measures models on the test split.
        stop_requested: returns whether the user wants to stop.
        launch: starts a process.
    """

    def __init__(
        self,
        folder: StudyFolder,
        configurations: Configurations,
        place: Path,
        *,
        seeds: int,
        workers: int,
        threads: int | None,
        parent: str | None,
        measure: Measure,
        stop_requested: Callable[[], bool],
        launch: Launch | None = None,
    ) -> None:
        self._folder = folder
        self._configurations = configurations
        self._place = place
        self._seeds = seeds
        self._workers = workers
        self._threads = threads
        self._parent = parent
        self._measure = measure
        self._stop_requested = stop_requested
        self._launch = launch

    def compare(self, best: Trial, default: Trial) -> Comparison | None:
        """Trains what is missing, and measures all on the test split; None if the user wanted to stop.

        Args:
            best: the winner.
            default: the user's configuration, trial 0.

        Raises:
            KcvError: nothing can be written any more.
        """
        notes = []
        both = [("best", best)]
        if default.number == best.number:
            notes.append("no trial was better than your configuration on the validation split")
        elif default.state == "complete":
            both.append(("default", default))
        else:
            how = "has not come to its end" if default.state == "open" else default.state
            notes.append(f"your configuration {how}, so there is nothing to compare the winner with")
        base = self._configurations({})
        jobs = [self._job(who, trial, base.seed + n, n == 0) for n in range(self._seeds) for who, trial in both]
        if known := self._known(jobs):
            return known
        failed = self._train(jobs)
        if failed is None:
            return None
        notes += failed
        done = [job for job in jobs if RunFolder(job.folder).finished]
        try:
            models = {job.name: RunFolder(job.folder).model for job in done}
            right = self._measure(models, _to_name(base)) if done else {}
        except DataError as error:
            return Comparison(notes=[*notes, f"nothing was compared: {error}"])
        found = self._compared(done, right, notes)
        write_json(self._folder.comparison, {"jobs": _listed(jobs), **_plain(found)})
        return found

    def _job(self, who: str, trial: Trial, seed: int, own: bool) -> _Job:
        """Returns a training; the trial itself is the one with the configured seed, where it is on this machine."""
        run = self._folder.trial(trial.number)
        if not (own and RunFolder(run).finished):
            run = self._folder.final / f"{trial.number:03}-seed-{seed}"
        return _Job(who, trial, seed, run)

    def _train(self, jobs: Sequence[_Job]) -> list[str] | None:
        """Trains what has not finished; returns a line for each that failed, and None if the user wanted to stop."""
        waiting = [n for n, job in enumerate(jobs) if not RunFolder(job.folder).finished]
        if waiting:
            _log.info(
                "final      %d trainings of the winner and of your configuration with further seeds", len(waiting)
            )
        runner = Children(
            lambda number: jobs[number].folder,
            lambda trial: self._configurations.trial(
                {} if jobs[trial.number].trial.default else jobs[trial.number].trial.params,
                parent=self._parent,
                seed=jobs[trial.number].seed,
            ),
            self._place,
            self._threads,
            self._launch,
        )
        running: set[int] = set()
        failed = []
        try:
            while waiting or running:
                if self._stop_requested():
                    return None
                while waiting and len(running) < self._workers:
                    number = waiting.pop(0)
                    runner.start(Trial(number, {}, 0))
                    running.add(number)
                for number in list(running):
                    ending = runner.look(number).ending
                    if ending is None:
                        continue
                    running.remove(number)
                    if ending.status == "broken":
                        raise KcvError(ending.message)
                    if ending.status != "finished":
                        failed.append(f"{jobs[number].name}: {ending.message}")
                    _log.info("final      %s: %s", jobs[number].name, ending.status)
                runner.wait()
        finally:
            runner.end()
        return failed

    def _compared(self, jobs: Sequence[_Job], right: Mapping[str, NDArray[np.bool_]], notes: list[str]) -> Comparison:
        rows = []
        for job in jobs:
            correct, n = int(right[job.name].sum()), len(right[job.name])
            low, high = wilson_interval(correct, n)
            rows.append(
                {
                    "who": job.who, "seed": job.seed, "trial": job.trial.number,
                    "directory": os.path.relpath(job.folder, self._folder.path), "accuracy": correct / n,
                    "accuracy_low": low, "accuracy_high": high,
                }
            )  # fmt: skip
        by_seed: dict[int, dict[str, _Job]] = {}
        for job in jobs:
            by_seed.setdefault(job.seed, {})[job.who] = job
        couples = [
            (pair["best"].name, pair["default"].name, right[pair["best"].name], right[pair["default"].name])
            for pair in by_seed.values()
            if len(pair) == 2
        ]
        n = len(next(iter(right.values()))) if right else 0
        return Comparison(rows, matched_pairs(couples), n, notes)

    def _known(self, jobs: Sequence[_Job]) -> Comparison | None:
        """Returns the comparison that was made before, if it is of the same runs: the test split is read once."""
        if not os.path.isfile(self._folder.comparison):
            return None
        try:
            found = read_json(self._folder.comparison, DataError)
            if found["jobs"] != _listed(jobs):
                return None
            names = ("first", "second", "both", "only_first", "only_second", "neither", "p_value")
            pairs = [Pair(**{name: pair[name] for name in names}) for pair in found["pairs"]]
            return Comparison(list(found["rows"]), pairs, int(found["images"]), list(found["notes"]))
        except (KcvError, KeyError, TypeError):
            return None


def _to_name(config: Config) -> str | None:
    """Returns the data of a configuration where they must be named to be read again: a URL, unlike a path.

    A model file keeps no credentials, and kcv fetches nothing that only a file names.
    """
    return config.data.source if is_url(config.data.source) else None


def _listed(jobs: Sequence[_Job]) -> list[list[Any]]:
    return [[job.who, job.trial.number, job.seed] for job in jobs]


def _plain(found: Comparison) -> dict[str, Any]:
    return {
        "rows": found.rows,
        "pairs": [pair.to_dict() for pair in found.pairs],
        "images": found.images,
        "notes": found.notes,
        "measured": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
