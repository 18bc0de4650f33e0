"""Searching for a better configuration: trials of `kcv train`, each judged on the validation split alone.

configuration + space -> trials, stopped early and continued -> best.yaml -> the winner and the user's configuration,
trained with several seeds -> their test accuracies, compared by a paired test
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from kcv.common.files import expand_user
from kcv.common.parameters import AtLeast, Between, checked
from kcv.data.fold import Count
from kcv.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kcv.metrics.significance import Pair
    from kcv.tuning.outcome import Outcome

__all__ = ["Tuning", "tune"]

_LONGEST_MINUTES = 100_000


@dataclass(frozen=True)
class Tuning:
    """What a search has found.

    Attributes:
        directory: the folder of the study.
        trials: a row per trial: `trial`, its number, `state`, `epochs`, `value`, `seconds`, the searched values by
            dotted key as `params`, and why it failed as `message`; with folds `folds` in place of `epochs`.
        monitor: what `value` is, such as `val_accuracy`.
        best: number of the best trial; None if none has come to its end.
        best_config: its configuration, which `kcv train` takes; None if there is none.
        best_run: its run folder, with folds that of its first training on all of them; None if it is not on this
            machine.
        importance: how much each key matters, 0-1, by dotted key.
        test: test accuracies of the winner and of the user's configuration by seed; empty if they were not compared.
        pairs: the winner with the user's configuration, by seed.
        page: the page of the study.
        tracking: where the tracker keeps the study; None if nowhere.
        seconds: wall time of this call.
        notes: what the user should know.
        folds: the number of folds of each trial; None for a single training.
    """

    directory: Path
    trials: list[dict[str, Any]]
    monitor: str
    best: int | None
    best_config: Path | None
    best_run: Path | None
    importance: dict[str, float]
    test: list[dict[str, Any]]
    pairs: list[Pair]
    page: Path
    tracking: str | None
    seconds: float
    notes: list[str] = field(default_factory=list)
    folds: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns all of it as plain values."""
        return {
            "directory": str(self.directory),
            "monitor": self.monitor,
            "trials": self.trials,
            "best": self.best,
            "best_config": None if self.best_config is None else str(self.best_config),
            "best_run": None if self.best_run is None else str(self.best_run),
            "importance": self.importance,
            "test": self.test,
            "pairs": [pair.to_dict() for pair in self.pairs],
            "page": str(self.page),
            "tracking": self.tracking,
            "seconds": self.seconds,
            "notes": self.notes,
            "folds": self.folds,
        }


@checked
def tune(
    config: str | Path | None = None,
    *,
    space: str | Path | None = None,
    trials: Annotated[int, AtLeast(1)] | None = None,
    minutes: Annotated[float, Between(0.01, _LONGEST_MINUTES)] | None = None,
    folds: Count | None = None,
    workers: Annotated[int, AtLeast(1)] | None = None,
    pruner: Literal["asha", "median", "none"] | None = None,
    seeds: Annotated[int, AtLeast(0)] | None = None,
    storage: str | None = None,
    resume: str | Path | None = None,
    output_dir: str | Path | None = None,
    **overrides: Any,
) -> Tuning:
    """Search for better settings, and compare the winner with yours on the test split.

    Args:
        config: a YAML file, as for `train`; it is trial 0.
        space: a YAML file with the values to try; default: learning rate, weight decay, label smoothing, augmentation
            and dropout around those of the configuration.
        trials: trials that are begun; default: 20, or any number if minutes are given.
        minutes: time of the search. Running trials are then stopped with a checkpoint; the winner is trained and
            compared after that.
        folds: train each trial once per fold of the images of train and val, and judge it by the mean over the folds;
            default: one training, judged by the validation split. For small data, where one validation split says
            little; 5 is usual.
        workers: trials that run at the same time; default: 1.
        pruner: which trials are stopped early; default: asha. With asha the best third goes on at each rung, and
            continues where it stopped; median stops what is worse than the median of the finished trials. With folds,
            trials stop and go on between folds.
        seeds: trainings of the winner and of your configuration that are compared on the test split; default: 3, and 0
            leaves the test split unread.
        storage: a database that several machines share, such as postgresql://HOST/NAME; default: a file in the folder.
        resume: continue the study in this folder. More trials or minutes may be given.
        output_dir: folder of the study; default: studies/<name>/<time>.
        **overrides: keys of the configuration, by dotted name or short flag; see `kcv.Config`.

    Raises:
        ConfigError: with every problem of the configuration and of the space, before the first trial.
        UsageError: Optuna is missing, there is no study to continue, or the database cannot be used.
        KcvError: your configuration cannot be trained, or nothing can be written any more.
        KeyboardInterrupt: after Ctrl-C or SIGTERM; everything is stored, and `resume` goes on.

    Example:
        $ kcv tune configs/quickstart.yaml --trials=20
        $ kcv tune configs/quickstart.yaml --space=space.yaml --minutes=20 --workers=2
        $ kcv tune configs/photos.yaml --data=path/to/few/images --folds=5
        $ kcv tune --resume=studies/quickstart/2026-01-01_12-00-00 --trials=40
    """
    from kcv.tuning.session import Asked, Session
    from kcv.tuning.storage import require_optuna

    began = time.monotonic()
    require_optuna()
    asked = Asked(trials, minutes, workers, pruner, seeds, storage, folds)
    folder = None if output_dir is None else expand_user(output_dir)
    if resume is None:
        file, values = (None if named is None else expand_user(named) for named in (config, space))
        session = Session.begin(file, values, asked, folder, overrides)
    else:
        for name, given in (("CONFIG", config), ("--space", space), ("--output_dir", output_dir)):
            if given is not None:
                raise UsageError(f"--resume goes on with what the study began with; leave out {name}.")
        session = Session.resume(expand_user(resume), asked, overrides)
    return _tuning(session.run(_measure, began), time.monotonic() - began)


def _measure(models: Mapping[str, Path], data: str | None) -> Mapping[str, NDArray[np.bool_]]:
    """Returns by model whether each test image was classified correctly; data as for `compare`."""
    from kcv.inference import opening
    from kcv.tasks.compare import measured

    right, _, _ = measured({name: opening.load(path) for name, path in models.items()}, data, "test")
    return right


def _tuning(outcome: Outcome, seconds: float) -> Tuning:
    from kcv.tuning.outcome import column_of, state_of

    folder, best = outcome.folder, outcome.best
    run = None if best is None else folder.trial(best.number)
    if outcome.folds is not None:  # the trial has a run per fold, and none of them is the model to use
        trained = [row["directory"] for row in outcome.comparison.rows if row["who"] == "best"]
        run = folder.path / trained[0] if trained else None
    epochs = column_of("epochs", outcome.folds)
    rows = [
        {"trial": one.number, "state": state_of(one), epochs: one.epochs, "value": one.value,
         "seconds": one.seconds, "params": dict(one.params), "message": one.message or None}
        for one in outcome.trials
    ]  # fmt: skip
    return Tuning(
        directory=folder.path,
        trials=rows,
        monitor=outcome.monitor,
        best=None if best is None else best.number,
        best_config=None if best is None else folder.best,
        best_run=run if run is not None and run.is_dir() else None,
        importance=dict(outcome.importance),
        test=outcome.comparison.rows,
        pairs=outcome.comparison.pairs,
        page=folder.page,
        tracking=outcome.tracking,
        seconds=seconds,
        notes=list(outcome.notes),
        folds=outcome.folds,
    )
