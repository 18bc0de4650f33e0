"""What a study has come to: its best trial, its notes, and its table and page."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from kcv.common.files import write_csv
from kcv.metrics.significance import wilson_interval
from kcv.reporting.study_page import StudyMaterial
from kcv.tracking import Tracker
from kcv.tuning.final import Comparison
from kcv.tuning.space import Space
from kcv.tuning.study import StudyFolder
from kcv.tuning.trials import Order, Trial

COLUMNS = ("trial", "state", "epochs", "value", "val_loss", "seconds")
"""The first columns of `trials.csv`; the searched keys and `message` follow."""

_WIDE = 0.05
"""The width of an accuracy's interval from which chance decides between trials."""


@dataclass
class Outcome:
    """What a study has come to.

    Attributes:
        folder: its folder.
        trials: all its trials.
        best: the winner; None if no trial has come to its end.
        monitor: what was optimised.
        importance: how much each key matters, 0-1, by dotted key.
        comparison: the test accuracies.
        tracking: where the tracker keeps it; None if nowhere.
        notes: what the user should know.
        folds: the number of folds of each trial; None for a single training.
    """

    folder: StudyFolder
    trials: Sequence[Trial]
    best: Trial | None
    monitor: str
    importance: Mapping[str, float]
    comparison: Comparison = field(default_factory=Comparison)
    tracking: str | None = None
    notes: Sequence[str] = ()
    folds: int | None = None

    def compared(self, found: Comparison) -> Outcome:
        """Returns the outcome with a comparison and its notes."""
        return replace(self, comparison=found, notes=[*self.notes, *found.notes])


def chance(value: float, images: int | None) -> list[str]:
    """Returns a note on the best accuracy, if it is of so few images that chance has a part in it.

    Args:
        value: the accuracy, 0 to 1.
        images: the number of validation images; None if it is not known.
    """
    if not images:
        return []
    low, high = wilson_interval(round(value * images), images)
    if high - low < _WIDE:
        return []
    return [
        f"val_accuracy is of {images:,} images: {value:.1%} stands for {low:.1%} to {high:.1%}, and the best of many "
        "trials was lucky, too; more validation images (data.val_fraction) or --folds tell trials apart"
    ]


def state_of(trial: Trial) -> str:
    """Returns the state of a trial for people: `stopped early` where it waits."""
    if trial.state != "open":
        return trial.state
    return "stopped early" if trial.waits else "not finished"


def column_of(name: str, folds: int | None) -> str:
    """Returns a column of `trials.csv`: in folds, how far a trial has come is said in `folds`, not in `epochs`."""
    return "folds" if name == "epochs" and folds is not None else name


def material_of(outcome: Outcome, space: Space, order: Order, pruner: str, epochs: int) -> StudyMaterial:
    """Returns what the page shows."""
    folder = outcome.folder
    best = outcome.best
    ranked = [*order.ranked(one for one in outcome.trials if one.state == "complete")]
    rest = [one for one in outcome.trials if one not in ranked]
    return StudyMaterial(
        title=folder.path.name,
        monitor=outcome.monitor,
        higher=order.higher,
        pruner=pruner,
        epochs=epochs,
        folds=outcome.folds,
        ranges=space.to_dict(),
        trials=[
            {"number": one.number, "state": state_of(one), "epochs": one.epochs, "value": one.value,
             "seconds": one.seconds, "params": dict(one.params), "values": dict(one.values), "default": one.default,
             "message": one.message}
            for one in (*ranked, *rest)
        ],
        best=None if best is None else best.number,
        best_config=folder.best.read_text(encoding="utf-8") if best is not None else None,
        again=f"python -m kcv train {shlex.quote(str(folder.best))}",
        importance=outcome.importance,
        rows=outcome.comparison.rows,
        verdicts=[pair.words() for pair in outcome.comparison.pairs],
        images=outcome.comparison.images,
        notes=list(outcome.notes),
    )  # fmt: skip


def write_table(folder: StudyFolder, trials: Sequence[Trial], space: Space, folds: int | None) -> None:
    """Writes `trials.csv`: a row per trial.

    Raises:
        OutputError: it cannot be written.
    """
    keys = list(space.parameters)
    rows = (
        [one.number, state_of(one), one.epochs, one.value, one.loss, round(one.seconds, 1),
         *(one.params.get(key) for key in keys), one.message]
        for one in trials
    )  # fmt: skip
    columns = [column_of(name, folds) for name in COLUMNS]
    write_csv(folder.table, [*columns, *keys, "message"], rows)


def track(tracker: Tracker, outcome: Outcome) -> None:
    """Logs the best trial and the files of the study."""
    if outcome.best is not None and outcome.best.value is not None:
        tracker.log_metrics({f"best_{outcome.monitor}": outcome.best.value}, step=outcome.best.number)
    for path in (outcome.folder.best, outcome.folder.table, outcome.folder.page):
        if os.path.isfile(path):
            tracker.log_artifacts(path)
