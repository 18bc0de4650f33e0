"""Which values the next trial gets: Optuna's tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011).

The suggestion is a function of the trials so far, the seed and the number of the trial. So a search that was killed
goes on as it would have gone on. Optuna sees the trials through a study in memory: those that were stopped early are
pruned there, and those that run are running.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, Final

from kcv.tuning.space import Space
from kcv.tuning.storage import distributions
from kcv.tuning.trials import Order, Trial

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

_RANDOM_TRIALS: Final = 8
"""Trials before the estimator has something to go by; Optuna's own default, 10, is half of a small search."""

_FEWEST: Final = 10
"""Trials below which an importance would be chance."""


def suggest(space: Space, trials: Sequence[Trial], running: Collection[int], order: Order, seed: str) -> dict[str, Any]:
    """Returns the values of the next trial, by dotted key.

    Args:
        space: the search space.
        trials: all trials so far, by number.
        running: numbers of those that run now, here or elsewhere.
        order: the order of the trials.
        seed: decides the random numbers together with the number of the next trial.
    """
    import optuna

    number = len(trials)
    drawn = int.from_bytes(hashlib.sha256(f"{seed} {number}".encode()).digest()[:4])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about options that Optuna calls experimental
        sampler = optuna.samplers.TPESampler(
            n_startup_trials=_RANDOM_TRIALS, multivariate=True, constant_liar=True, seed=drawn
        )
        study = in_memory(space, trials, running, order, sampler)
        found = study.ask(distributions(space)).params
    return {key: found[key] for key in space.parameters}


def in_memory(
    space: Space,
    trials: Sequence[Trial],
    running: Collection[int] = (),
    order: Order | None = None,
    sampler: Any = None,
) -> Study:
    """Returns the trials as a study of Optuna in memory; without those that failed or have no values in the space."""
    import optuna

    higher = order is None or order.higher
    study = optuna.create_study(direction="maximize" if higher else "minimize", sampler=sampler)
    for trial in trials:
        if trial.params.keys() == space.parameters.keys() and (
            frozen := _frozen(trial, trial.number in running, space)
        ):
            study.add_trial(frozen)
    return study


def _frozen(trial: Trial, runs: bool, space: Space) -> FrozenTrial | None:
    """Returns a trial as Optuna has it; None if nothing follows from it."""
    from optuna.trial import TrialState, create_trial

    values = dict(trial.values)
    if trial.state == "failed":
        return None
    if trial.state == "complete":
        state = TrialState.COMPLETE
    elif trial.state == "diverged":
        state, values = TrialState.PRUNED, {}  # it counts as the worst
    else:
        state = TrialState.RUNNING if runs or not values else TrialState.PRUNED
    return create_trial(
        state=state,
        value=trial.value if state is TrialState.COMPLETE else None,
        params=dict(trial.params),
        distributions=distributions(space),
        intermediate_values=values,
    )


def importance(space: Space, trials: Sequence[Trial], order: Order) -> dict[str, float]:
    """Returns how much each key matters for being among the best trials, 0-1, the most important first.

    PED-ANOVA (Watanabe et al., IJCAI 2023) over all trials that have a result: at the last epoch that most of them have
    reached, so that trials that were stopped early count as well; those that diverged are the worst.

    Returns:
        Shares by dotted key, which add up to 1; empty if there are too few trials.
    """
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
    from optuna.trial import TrialState, create_trial

    known = [trial for trial in trials if trial.params.keys() == space.parameters.keys() and trial.values]
    if len(known) < _FEWEST:
        return {}
    lengths = sorted((trial.epochs for trial in known), reverse=True)
    epoch = lengths[(3 * len(lengths)) // 4]  # three quarters have come so far
    values = {trial.number: trial.values[epoch] for trial in known if epoch in trial.values}
    worst = min(values.values()) if order.higher else max(values.values())
    values |= {trial.number: worst for trial in trials if trial.state == "diverged" and trial.params}
    study = optuna.create_study(direction="maximize" if order.higher else "minimize")
    for trial in trials:
        if trial.number in values:
            study.add_trial(
                create_trial(
                    state=TrialState.COMPLETE,
                    value=values[trial.number],
                    params=dict(trial.params),
                    distributions=distributions(space),
                )
            )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    except (ValueError, RuntimeError, ZeroDivisionError):  # such as no spread at all
        return {}
    return {key: float(share) for key, share in found.items()}
