"""Trials in folds: a trial is one training per fold, and its value the mean over the folds that it has come to.

Each fold validates the trainings on the others, so that every image outside of the test split counts once. The folds
are to the search what epochs are to a single training: a trial may stop, wait and go on between them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kcv.config import Config
from kcv.data import loading
from kcv.data.fold import Fold
from kcv.data.folds import digest_of
from kcv.errors import KcvError
from kcv.metrics.standing import standing
from kcv.reporting.material import read_history
from kcv.training.run_folder import RunFolder


def digest_of_folds(config: Config, folds: int) -> str:
    """Divides the images of a configuration into folds, and returns the digest of the assignment.

    Args:
        config: the configuration, without a fold.
        folds: how many.

    Raises:
        DataError: the images cannot be read, or not be divided.
    """
    source = loading.source_of(config.data)
    return digest_of(loading.division_of_source(source, _of_fold(config, Fold(1, folds)).data).assigned)


@dataclass(frozen=True)
class TrialFolds:
    """The trainings of a trial.

    Attributes:
        count: the number of folds.
        digest: of the assignment of the images, see `kcv.data.folds.digest_of`.
        monitor: the column of `history.csv` that is optimised.
        higher: whether a higher monitor is better.
        keep: the epoch whose monitor counts, as in `train.keep`.
    """

    count: int
    digest: str
    monitor: str
    higher: bool
    keep: Literal["best", "last"] = "best"

    def runs(self, folder: Path) -> list[RunFolder]:
        """Returns the run folders of a trial, one per fold."""
        return [RunFolder(folder / f"fold-{number}") for number in range(1, self.count + 1)]

    def configs(self, config: Config) -> list[Config]:
        """Returns the configurations of the trainings of a trial, without their folders."""
        return [_of_fold(config, Fold(number, self.count, self.digest)) for number in range(1, self.count + 1)]

    def rows(self, runs: Sequence[RunFolder]) -> list[dict[str, float]]:
        """Returns a row per fold that has come to its end, in order: `epoch`, its number, and the means so far.

        The means of the monitor and of `val_loss` are over the kept epochs of this fold and of those before it.
        `seconds` is the time of this fold. A row that is not finite has no finite monitor.
        """
        kept: list[Mapping[str, float]] = []
        rows: list[dict[str, float]] = []
        for number, run in enumerate(runs, start=1):
            history = _history_of(run)
            if not history:
                break
            kept.append(max(history, key=self._key) if self.keep == "best" else history[-1])
            keys = [key for key in (self.monitor, "val_loss") if key in kept[0]]
            means = {key: sum(row[key] for row in kept) / number for key in keys}
            seconds = sum(row.get("seconds", 0.0) for row in history)
            rows.append({"epoch": float(number), **means, "seconds": seconds})
        return rows

    def _key(self, row: Mapping[str, float]) -> tuple[float, float, float]:
        """Returns the key by which the epochs of a run are compared: as `standing`, then the later one."""
        found = standing(row, self.monitor, higher=self.higher) if self.monitor in row else None
        return (*(found or (-float("inf"), -float("inf"))), row["epoch"])


def _history_of(run: RunFolder) -> list[dict[str, float]]:
    """Returns the history of a run that has ended; nothing of any other."""
    if os.path.isfile(run.metrics) and run.finished:
        with suppress(OSError, KcvError):
            return read_history(run.history)
    return []


def _of_fold(config: Config, fold: Fold) -> Config:
    data = config.data.model_copy(update={"fold": str(fold), "fold_split": "val"})
    return config.model_copy(update={"data": data})
