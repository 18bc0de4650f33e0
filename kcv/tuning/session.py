"""A study from its beginning, or where it was left, to its end: search, files, comparison, tracking."""

from __future__ import annotations

import logging
import math
import os
import secrets
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kcv
from kcv.common.cores import usable_cores
from kcv.common.redaction import without_credentials
from kcv.common.untrusted import read_json
from kcv.config import Config
from kcv.config.overrides import flatten
from kcv.config.policies import POLICIES
from kcv.errors import ConfigError, DataError, KcvError, UsageError
from kcv.metrics.standing import higher_is_better
from kcv.reporting.study_page import write_page
from kcv.tracking import NoTracker, Tracker, open_tracker
from kcv.training.commit import commit_of
from kcv.training.resume.lock import lock
from kcv.training.resume.stop_request import StopRequest
from kcv.training.resume.working_folder import returned_to
from kcv.training.run_folder import RunFolder
from kcv.tuning.coordinator import Budget, Coordinator, Plan
from kcv.tuning.final import Final, Measure
from kcv.tuning.outcome import Outcome, chance, material_of, track, write_table
from kcv.tuning.pruning import earliest_of, rule_of
from kcv.tuning.running import Children, Launch
from kcv.tuning.sampling import importance
from kcv.tuning.space import Space, check_space, default_space, read_space
from kcv.tuning.storage import Storage, digest_of
from kcv.tuning.study import CREDENTIALS, Configurations, Settings, StudyFolder, flags, of_trial, write_best
from kcv.tuning.trial_folds import TrialFolds, digest_of_folds
from kcv.tuning.trials import Order, Trial

_log = logging.getLogger(__name__)

_TRIALS = 20
_SEEDS = 3
_RESERVE_SECONDS = 5.0
"""Time for running trials to write their checkpoints, at most a tenth of the search."""


@dataclass(frozen=True)
class Asked:
    """What the user asked for; None for what was not given.

    Attributes:
        trials: see `kcv.tasks.tune.tune`, as the others.
    """

    trials: int | None = None
    minutes: float | None = None
    workers: int | None = None
    pruner: str | None = None
    seeds: int | None = None
    storage: str | None = None
    folds: int | None = None


class Session:
    """One call of `kcv tune`.

    Args:
        folder: the folder of the study.
        settings: what was asked for.
        configurations: builds the configurations, with the user's credentials.
        space: the search space.
        url: the database, with credentials; None for the one in the folder.
        fresh: whether the study begins here.
        launch: starts processes; None for the interpreter that runs this one.
    """

    def __init__(
        self,
        folder: StudyFolder,
        settings: Settings,
        configurations: Configurations,
        space: Space,
        url: str | None,
        *,
        fresh: bool,
        launch: Launch | None = None,
    ) -> None:
        self._folder = folder
        self._settings = settings
        self._configurations = configurations
        self._space = space
        self._url = url
        self._fresh = fresh
        self._launch = launch
        self._base = configurations({})
        self._order = Order(higher_is_better(self._base.train.monitor))

    @classmethod
    def begin(
        cls,
        config: Path | None,
        space: Path | None,
        asked: Asked,
        output_dir: Path | None,
        overrides: Mapping[str, Any],
        launch: Launch | None = None,
    ) -> Session:
        """Checks everything and makes the folder of a new study.

        Raises:
            KcvError: see `kcv.tasks.tune.tune`.
        """
        configurations = _configurations(config, overrides)
        base = configurations({})
        found = default_space(base, configurations) if space is None else read_space(space, configurations)
        clean = configurations.without_credentials()
        pruner = asked.pruner or "asha"
        folds: dict[str, Any] = {}
        if asked.folds is not None:
            folds = {"folds": asked.folds, "division": _divided(base, asked.folds)}
        shared = {**clean({}).flatten(), "output_dir": None, "space": found.to_dict(), "pruner": pruner, **folds}
        workers = asked.workers or 1
        settings = Settings(
            values=_plain(clean.values),
            given=dict(clean.given),
            chosen=dict(clean.chosen),
            space=found.to_dict(),
            pruner=pruner,  # type: ignore[arg-type]
            earliest=1 if asked.folds else earliest_of(base.optim, base.train.epochs, base.model.unfreeze_after),
            trials=_TRIALS if asked.trials is None and asked.minutes is None else asked.trials,
            minutes=asked.minutes,
            workers=workers,
            threads=_threads(workers),
            seeds=_SEEDS if asked.seeds is None else asked.seeds,
            folds=asked.folds,
            division=folds.get("division"),
            storage=None if asked.storage is None else without_credentials(asked.storage),
            study="kcv" if asked.storage is None else f"{base.name}-{digest_of(shared)}",
            owner=secrets.token_hex(8),
            working_folder=str(Path.cwd()),
        )
        folder = StudyFolder.create(base.name, output_dir)
        return cls(folder, settings, configurations, found, asked.storage, fresh=True, launch=launch)

    @classmethod
    def resume(cls, named: Path, asked: Asked, overrides: Mapping[str, Any], launch: Launch | None = None) -> Session:
        """Opens a study to continue it.

        Raises:
            KcvError: see `kcv.tasks.tune.tune`.
        """
        folder = StudyFolder(named.absolute())
        settings = folder.read(str(named))
        again = flags(overrides)
        if wrong := [key for key in again if key not in CREDENTIALS]:
            raise UsageError(
                f"--resume goes on with the configuration that the study began with, without --{wrong[0]}."
            )
        if asked.pruner is not None and asked.pruner != settings.pruner:
            raise UsageError(f"--pruner: received {asked.pruner!r}, allowed with --resume: {settings.pruner}.")
        if asked.folds is not None and asked.folds != settings.folds:
            began = "without folds" if settings.folds is None else f"with {settings.folds} folds"
            raise UsageError(f"--resume: received --folds={asked.folds}, but the study began {began}.")
        if asked.storage is not None and without_credentials(asked.storage) != settings.storage:
            raise UsageError(f"--storage: allowed with --resume: that of the study, {settings.storage or 'none'}.")
        changed = {
            "trials": asked.trials, "minutes": asked.minutes, "workers": asked.workers, "seeds": asked.seeds
        }  # fmt: skip
        given: dict[str, Any] = {key: value for key, value in changed.items() if value is not None}
        if "minutes" in given and "trials" not in given:
            given["trials"] = None
        if "workers" in given:
            given["threads"] = _threads(given["workers"])
        settings = settings.model_copy(update=given)
        configurations = Configurations(settings.values, {**settings.given, **again}, settings.chosen)
        space = check_space(settings.space, configurations, str(folder.settings))
        return cls(
            folder, settings, configurations, space, asked.storage or settings.storage, fresh=False, launch=launch
        )

    def run(self, measure: Measure, began: float) -> Outcome:
        """Searches, compares, and writes the files of the study.

        Args:
            measure: measures models on the test split.
            began: when the command began, as `time.monotonic()` counts.

        Raises:
            KcvError: see `kcv.tasks.tune.tune`.
            KeyboardInterrupt: the user wanted to stop; everything is stored.
        """
        stop = StopRequest()
        with ExitStack() as held:
            held.enter_context(stop.listening())
            if not self._fresh:
                held.enter_context(returned_to(self._settings.working_folder, self._folder.path, "the study"))
            held.enter_context(lock(self._folder.lock))
            self._folder.write(self._settings)
            held.enter_context(self._undone())
            storage = held.enter_context(self._storage())
            tracker = self._tracker()
            with _recorded(tracker):
                _log.info("study      %s", self._folder.path)
                _log.info("space      %s", ", ".join(self._space.parameters))
                parent = _run_id(tracker)
                with stop.between_steps():
                    ended = self._coordinator(storage, parent, stop, began).search()
                outcome = self._outcome(storage, tracker)
                if ended and outcome.best is not None and self._settings.seeds:
                    with stop.between_steps():
                        found = self._final(parent, measure, stop).compare(outcome.best, outcome.trials[0])
                    ended = found is not None
                    outcome = outcome if found is None else outcome.compared(found)
                self._write(outcome)
                if not ended:
                    raise KeyboardInterrupt
                track(tracker, outcome)
        return outcome

    def _coordinator(self, storage: Storage, parent: str | None, stop: StopRequest, began: float) -> Coordinator:
        settings, base = self._settings, self._base
        whole = math.inf if settings.minutes is None else 60 * settings.minutes
        deadline = began + whole - min(_RESERVE_SECONDS, whole / 10) if settings.minutes else math.inf
        inside = self._space.holds(base.flatten())
        plan = Plan(
            space=self._space,
            default=self._space.of(base.flatten()) if inside else {},
            rule=rule_of(settings.pruner, settings.folds or base.train.epochs, self._order, settings.earliest),
            order=self._order,
            epochs=settings.folds or base.train.epochs,
            monitor=base.train.monitor,
            seed=str(base.seed) if settings.storage is None else f"{base.seed} {settings.owner}",
            owner=settings.owner,
            unit="epoch" if settings.folds is None else "fold",
            keep=base.train.keep,
        )
        runner = Children(
            self._folder.trial,
            lambda trial: self._configurations.trial(of_trial(trial), parent=parent),
            Path(settings.working_folder),
            settings.threads,
            self._launch,
            self._folds(),
        )
        return Coordinator(
            plan,
            Budget(settings.trials, deadline, settings.workers),
            storage,
            runner,
            lambda: stop.requested,
            lambda: write_table(self._folder, storage.trials(), self._space, self._settings.folds),
        )

    def _folds(self) -> TrialFolds | None:
        settings = self._settings
        if settings.folds is None or settings.division is None:
            return None
        train = self._base.train
        return TrialFolds(settings.folds, settings.division, train.monitor, self._order.higher, train.keep)

    def _final(self, parent: str | None, measure: Measure, stop: StopRequest) -> Final:
        return Final(
            self._folder,
            self._configurations,
            Path(self._settings.working_folder),
            seeds=self._settings.seeds,
            workers=self._settings.workers,
            threads=self._settings.threads,
            parent=parent,
            measure=measure,
            stop_requested=lambda: stop.requested,
            launch=self._launch,
        )

    @contextmanager
    def _storage(self) -> Iterator[Storage]:
        from sqlalchemy.engine import URL

        url = self._url or URL.create("sqlite", database=str(self._folder.database.absolute())).render_as_string()
        storage = Storage(
            url, self._settings.study, self._space, higher=self._order.higher, shared=self._url is not None
        )
        try:
            yield storage
        finally:
            storage.close()

    @contextmanager
    def _undone(self) -> Iterator[None]:
        """Removes the folder of a new study that fails before any trial has trained an epoch."""
        try:
            yield
        except KcvError:
            if self._fresh and not list(self._folder.trials.rglob("history.csv")):
                for path in self._folder.all:  # none of it was there before: see StudyFolder.create
                    if os.path.isdir(path):
                        shutil.rmtree(path, ignore_errors=True)
                    else:
                        path.unlink(missing_ok=True)
                if not os.listdir(self._folder.path):
                    self._folder.path.rmdir()
            else:
                self._say_way_on()
            raise
        except KeyboardInterrupt:
            self._say_way_on()
            raise

    def _say_way_on(self) -> None:
        _log.info("to go on: python -m kcv tune --resume=%s", shlex.quote(str(self._folder.path)))

    def _tracker(self) -> Tracker:
        """Opens the study's run, whose parameters are the ends of the space."""
        tracker = open_tracker(self._base.tracking)
        if isinstance(tracker, NoTracker):
            return tracker
        tracker.load_state_dict(self._settings.tracking)
        params = {f"space.{key}": value for key, value in self._space.to_dict().items()}
        options: dict[str, Any] = {"pruner": self._settings.pruner, "monitor": self._base.train.monitor}
        if self._settings.folds is not None:
            options["folds"] = self._settings.folds
        tags = {"kcv": kcv.__version__, **({"git_commit": commit} if (commit := commit_of(Path("."))) else {})}
        tracker.start(f"tune {self._folder.path.name}", {**options, **params}, tags)
        self._settings = self._settings.model_copy(update={"tracking": tracker.state_dict()})
        self._folder.write(self._settings)
        return tracker

    def _outcome(self, storage: Storage, tracker: Tracker) -> Outcome:
        trials = storage.trials()
        notes = []
        elsewhere = [one for one in trials if one.owner != self._settings.owner and one.state == "open"]
        if elsewhere:
            notes.append(f"{len(elsewhere)} trials of other machines run or wait")
        best, monitor = self._order.best(trials), self._base.train.monitor
        if best is not None and not best.default and best.value == trials[0].value:
            loss = ", but has the lower val_loss" if monitor != "val_loss" else ""
            notes.append(f"trial {best.number} is no better than your configuration by {monitor}{loss}")
        if best is not None and best.value is not None and monitor == "val_accuracy" and not self._settings.folds:
            notes += chance(best.value, self._judged_on(best))
        return Outcome(
            self._folder,
            trials,
            best,
            monitor,
            importance(self._space, trials, self._order),
            tracking=tracker.location,
            notes=notes,
            folds=self._settings.folds,
        )

    def _judged_on(self, trial: Trial) -> int | None:
        """Returns the number of validation images of a trial; None if that is not known here."""
        try:
            found = read_json(RunFolder(self._folder.trial(trial.number)).metrics, DataError)
        except DataError:
            return None  # of another machine, or not at its end
        return found["n"] if isinstance(found, dict) and isinstance(found.get("n"), int) else None

    def _write(self, outcome: Outcome) -> None:
        write_table(self._folder, outcome.trials, self._space, self._settings.folds)
        if outcome.best is not None:
            write_best(self._folder, self._configurations.without_credentials()(of_trial(outcome.best)))
        epochs = self._base.train.epochs
        write_page(self._folder.page, material_of(outcome, self._space, self._order, self._settings.pruner, epochs))


def _divided(base: Config, folds: int) -> str:
    """Returns the digest of the assignment of the images to folds.

    Raises:
        ConfigError: the configuration is of one fold already.
        DataError: the images cannot be divided.
    """
    if base.data.fold is not None:
        raise ConfigError(["data.fold: is one fold of several; leave it out with --folds."])
    digest = digest_of_folds(base, folds)
    _log.info("folds      %d, each of which validates the trainings on the others", folds)
    return digest


def _configurations(path: Path | None, overrides: Mapping[str, Any]) -> Configurations:
    """Reads the user's configuration, and chooses what it leaves open.

    Raises:
        KcvError: it is not valid, or its data cannot be read.
    """
    from kcv.config.yaml12 import read_mapping

    values = {} if path is None else read_mapping(path)
    base = Config.of_values(values, overrides, None if path is None else str(path))
    given = flags(overrides)
    chosen = _chosen(base)
    if chosen:
        given.pop("train.minutes", None)  # the epochs follow from them
        given.pop("model.name", None)
    return Configurations(values, given, chosen)


def _chosen(base: Config) -> dict[str, Any]:
    """Returns what kcv chooses where the configuration leaves it open, by dotted key: once, for all trials."""
    from kcv.training import automatic

    if not automatic.is_open(base):
        return {}
    from kcv.data import loading
    from kcv.native.device import resolve_device
    from kcv.training.time_budget import Clock

    source = loading.source_of(base.data)
    resolved, told = automatic.resolve(base, source, resolve_device(base.device), Clock(base.train.minutes))
    _log.info("auto       %s", told)
    before, after = base.flatten(), resolved.flatten()
    # What only follows from a policy is left out: a trial may have another one.
    follows = {f"augment.{key}": value for key, value in POLICIES[resolved.augment.policy].items()}
    return {key: value for key, value in after.items() if value != before[key] and (key, value) not in follows.items()}


def _threads(workers: int) -> int | None:
    """Returns the threads of each trial, together one per core; None: as many as torch or the environment takes."""
    return max(1, usable_cores() // workers) if workers > 1 and "OMP_NUM_THREADS" not in os.environ else None


def _plain(values: Mapping[Any, Any]) -> dict[str, Any]:
    """Returns the values of a file as JSON holds them. Raises ConfigError for keys that are no text."""
    if wrong := [key for key in flatten(values) if not isinstance(key, str)]:
        raise ConfigError([f"{wrong[0]!r}: unknown key."])
    return {str(key): dict(value) if isinstance(value, Mapping) else value for key, value in values.items()}


def _run_id(tracker: Tracker) -> str | None:
    """Returns the ID of the study's run in MLflow; None if nothing is tracked, or the server has not answered yet."""
    run = None if isinstance(tracker, NoTracker) else tracker.state_dict().get("run")
    if run is not None and run.startswith("spool-"):
        _log.warning("tracking: the server has not answered, so the trials are not shown below the study there")
        return None
    return run


@contextmanager
def _recorded(tracker: Tracker) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        tracker.finish("KILLED")
        raise
    except BaseException:
        tracker.finish("FAILED")
        raise
    tracker.finish("FINISHED")
