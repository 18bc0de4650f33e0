"""The trials of a study in Optuna's storage: SQLite in the folder of the study, or a database that machines share.

A trial is created with all its values in one transaction, so a killed coordinator leaves none that is half made.
Trials that were stopped early stay RUNNING in the database, because Optuna lets no finished trial go on.
"""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Literal

from kcv.common.redaction import hide_credentials, without_credentials
from kcv.errors import OutputError, UsageError, one_line
from kcv.tuning.space import Choices, Range, Space
from kcv.tuning.trials import State, Trial

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

_STATES: Final[Mapping[State, str]] = {
    "open": "RUNNING",
    "complete": "COMPLETE",
    "diverged": "PRUNED",
    "failed": "FAIL",
}
_MOST_MESSAGE: Final = 1_000
_MOST_ATTEMPTS: Final = 4
"""Attempts at opening a shared database."""


def require_optuna() -> None:
    """Imports Optuna, without its messages.

    Raises:
        UsageError: it is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import optuna
    except ImportError:
        raise UsageError("tune needs Optuna; install it by: pip install 'kcv[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for name in ("alembic", "sqlalchemy"):
        logging.getLogger(name).setLevel(logging.ERROR)


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Returns the space as Optuna has it."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, BaseDistribution] = {}
    for key, parameter in space.parameters.items():
        if isinstance(parameter, Choices):
            found[key] = CategoricalDistribution(parameter.values)
        elif parameter.whole:
            found[key] = IntDistribution(
                int(parameter.low), int(parameter.high), log=parameter.log, step=int(parameter.step or 1)
            )
        else:
            assert isinstance(parameter, Range)
            found[key] = FloatDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)
    return found


class Storage:
    """The trials of one study.

    Args:
        url: a database URL of SQLAlchemy; may hold a password.
        study: the name of the study in it; it is made if there is none.
        space: the space that is searched.
        higher: whether a higher monitor is better.
        shared: whether other coordinators write to the same study.

    Raises:
        UsageError: the database cannot be used.
    """

    def __init__(self, url: str, study: str, space: Space, *, higher: bool, shared: bool = False) -> None:
        require_optuna()
        import optuna

        self.location = without_credentials(url)
        self._distributions = distributions(space)
        self._shared = shared
        self._known: dict[int, Trial] = {}
        template = url.replace("{", "{{").replace("}", "}}")  # Optuna formats what it is given
        direction: Literal["maximize", "minimize"] = "maximize" if higher else "minimize"
        for attempt in range(_MOST_ATTEMPTS):
            try:
                with self._told(opening=True):
                    self._storage = optuna.storages.RDBStorage(template, engine_kwargs={"pool_pre_ping": True})
                    made = optuna.create_study(
                        storage=self._storage, study_name=study, direction=direction, load_if_exists=True
                    )
                    self._study = made._study_id
                break
            except UsageError:  # two coordinators may have begun to make the tables at the same moment
                if not shared or attempt == _MOST_ATTEMPTS - 1:
                    raise
                time.sleep(1 + attempt)

    def trials(self) -> list[Trial]:
        """Returns all trials of the study, by number; of a shared database, those of other machines as well."""
        if self._shared or not self._known:
            with self._told():
                found = self._storage.get_all_trials(self._study, deepcopy=False)
            self._known = {frozen.number: _trial(frozen) for frozen in sorted(found, key=lambda trial: trial.number)}
        return list(self._known.values())

    def trial(self, number: int) -> Trial:
        """Returns a trial by its number, as it was last read or written here."""
        return self._known[number]

    def create(self, params: Mapping[str, Any], *, target: int, owner: str, default: bool) -> Trial:
        """Adds a trial, and returns it."""
        from optuna.trial import TrialState, create_trial

        template = create_trial(
            state=TrialState.RUNNING,
            params=dict(params),
            distributions={key: self._distributions[key] for key in params},
            user_attrs={"target": target, "owner": owner, "default": default},
        )
        with self._told():
            key = self._storage.create_new_trial(self._study, template_trial=template)
            trial = _trial(self._storage.get_trial(key))
        return self._keep(trial)

    def note(self, trial: Trial, epoch: int, value: float, loss: float | None, seconds: float) -> Trial:
        """Stores the best monitor of a trial up to an epoch, the validation loss there, and the time so far."""
        with self._told():
            self._storage.set_trial_user_attr(trial.key, "progress", {"loss": loss, "seconds": seconds})
            self._storage.set_trial_intermediate_value(trial.key, epoch, value)
        return self._keep(replace(trial, values={**trial.values, epoch: value}, loss=loss, seconds=seconds))

    def aim(self, trial: Trial, target: int) -> Trial:
        """Stores how far a trial may go."""
        with self._told():
            self._storage.set_trial_user_attr(trial.key, "target", target)
        return self._keep(replace(trial, target=target))

    def end(self, trial: Trial, state: State, message: str = "") -> Trial:
        """Stores that a trial has come to its end."""
        from optuna.trial import TrialState

        message = message[:_MOST_MESSAGE]
        with self._told():
            if message:
                self._storage.set_trial_user_attr(trial.key, "message", message)
            values = [trial.value] if state == "complete" and trial.value is not None else None
            self._storage.set_trial_state_values(trial.key, TrialState[_STATES[state]], values)
        return self._keep(replace(trial, state=state, message=message))

    def _keep(self, trial: Trial) -> Trial:
        self._known[trial.number] = trial
        return trial

    def close(self) -> None:
        """Closes the connections to the database."""
        self._storage.remove_session()
        self._storage.engine.dispose()

    @contextmanager
    def _told(self, *, opening: bool = False) -> Iterator[None]:
        """Turns errors of the database into one line without credentials."""
        import optuna
        import sqlalchemy.exc

        try:
            yield
        except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            causes = [error, *filter(None, (error.__cause__, getattr(error, "orig", None)))]
            reason = hide_credentials(one_line(causes[-1]))
            raise (UsageError if opening else OutputError)(f"{self.location}: {reason[:300]}") from None
        except (ImportError, ValueError, RuntimeError) as error:
            if not opening:  # RuntimeError: the tables are those of another version of Optuna
                raise
            driver = "; install the driver of this database" if isinstance(error, ImportError) else ""
            raise UsageError(f"--storage={self.location}: {hide_credentials(one_line(error))[:300]}{driver}") from None


def _trial(frozen: FrozenTrial) -> Trial:
    """Returns a trial as kcv has it."""
    attributes = frozen.user_attrs
    progress = attributes.get("progress", {})
    state: State = next((ours for ours, theirs in _STATES.items() if theirs == frozen.state.name), "failed")
    values = dict(sorted(frozen.intermediate_values.items()))
    return Trial(
        number=frozen.number,
        params=frozen.params,
        target=int(attributes.get("target", 0)),
        values=values,
        state=state,
        owner=str(attributes.get("owner", "")),
        default=bool(attributes.get("default", False)),
        loss=progress.get("loss"),
        message=str(attributes.get("message", "")),
        seconds=float(progress.get("seconds", 0.0)),
        key=frozen._trial_id,
    )


def digest_of(values: Mapping[str, Any]) -> str:
    """Returns a short hash of plain values, for the name of a study that machines share."""
    import hashlib

    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
