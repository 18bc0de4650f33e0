"""The search itself, with trials that are computed at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from variants import variants

pytest.importorskip("optuna", reason="needs the extra kcv[tune]")

from kcv.errors import KcvError
from kcv.tuning.coordinator import Budget, Coordinator, Plan
from kcv.tuning.pruning import Pruner, rule_of
from kcv.tuning.running import Ending, Report
from kcv.tuning.space import Choices, Range, Space
from kcv.tuning.storage import Storage
from kcv.tuning.trials import Order, Trial

EPOCHS = 9
SPACE = Space(
    {
        "optim.lr": Range(1e-4, 1.0, log=True),
        "optim.label_smoothing": Range(0.0, 0.2),
        "augment.policy": Choices(("none", "light")),
    }
)
DEFAULT = {"optim.lr": 0.5, "optim.label_smoothing": 0.1, "augment.policy": "none"}


def accuracy(params: Mapping[str, Any], epoch: int) -> float:
    """A learning curve that is best at a rate of 0.01; slow ones begin late."""
    distance = abs(math.log10(params["optim.lr"]) + 2)
    bonus = 0.03 if params["augment.policy"] == "light" else 0.0
    return max(0.1, (0.9 + bonus - 0.2 * distance) * (1 - 0.5**epoch))


class Killed(BaseException):
    """The coordinator's process is gone."""


class Computed:
    """Trials whose epochs are there as soon as one looks: one more with each look, and a few too many.

    Args:
        dies: a look at which the coordinator is killed; None for never.
        endings: how trials end, by number, at which epoch.
    """

    def __init__(self, dies: int | None = None, endings: Mapping[int, tuple[int, Ending]] | None = None) -> None:
        self.dies = dies
        self.endings = endings or {}
        self.looks = 0
        self.started: list[int] = []
        self.trained: dict[int, int] = {}
        self.params: dict[int, Mapping[str, Any]] = {}
        self.asked: set[int] = set()

    def start(self, trial: Trial) -> None:
        self.started.append(trial.number)
        self.params[trial.number] = trial.params or DEFAULT
        self.asked.discard(trial.number)

    def look(self, number: int) -> Report:
        self.looks += 1
        if self.looks == self.dies:
            raise Killed
        epochs = self.trained[number] = min(EPOCHS, self.trained.get(number, 0) + 2)  # it has not stopped in time
        last, ending = self.endings.get(number, (EPOCHS, Ending("finished")))
        rows = [
            {"epoch": epoch, "val_accuracy": accuracy(self.params[number], epoch), "val_loss": 1.0, "seconds": 1.0}
            for epoch in range(1, min(epochs, last) + 1)
        ]
        if epochs >= last:
            return Report(rows, ending)
        return Report(rows, Ending("stopped") if number in self.asked else None)

    def stop(self, number: int) -> None:
        self.asked.add(number)

    def wait(self) -> None:
        pass

    def end(self) -> None:
        pass


Searcher = Callable[..., list[Trial]]


@pytest.fixture
def search(tmp_path: Path) -> Searcher:
    def search(
        runner: Computed,
        *,
        pruner: Pruner = "asha",
        trials: int = 12,
        workers: int = 1,
        name: str = "study",
        owner: str = "me",
        default: Mapping[str, Any] = DEFAULT,
    ) -> list[Trial]:
        order = Order(higher=True)
        storage = Storage(f"sqlite:///{tmp_path / name}.db", "study", SPACE, higher=True, shared=owner != "me")
        plan = Plan(SPACE, default, rule_of(pruner, EPOCHS, order), order, EPOCHS, "val_accuracy", "42", owner)
        try:
            assert Coordinator(plan, Budget(trials, workers=workers), storage, runner).search()
        finally:
            found = storage.trials()
            storage.close()
        return found

    return search


def told(trials: list[Trial]) -> list[tuple[Any, ...]]:
    return [(one.number, one.params, one.values, one.state, one.target, one.loss) for one in trials]


@pytest.mark.parametrize("pruner", variants(["asha", "median", "none"], fast=1))
def test_a_search_killed_five_times_ends_with_the_same_study(search: Searcher, pruner: Pruner) -> None:
    undisturbed = search(Computed(), pruner=pruner, name="undisturbed")
    runner = Computed()
    for looks in (1, 2, 4, 3, 4):
        runner.dies = runner.looks + looks
        with pytest.raises(Killed):
            search(runner, pruner=pruner)
    runner.dies = None
    assert told(search(runner, pruner=pruner)) == told(undisturbed)
    assert len(undisturbed) == 12


@pytest.mark.parametrize("pruner", ["asha", "median"])
def test_a_search_killed_after_every_single_write_ends_with_the_same_study(tmp_path: Path, pruner: Pruner) -> None:
    """Each life of the coordinator gets to one write; whatever stands between two writes is lost each time."""
    order = Order(higher=True)
    plan = Plan(SPACE, DEFAULT, rule_of(pruner, EPOCHS, order), order, EPOCHS, "val_accuracy", "42", "me")
    found = []
    for dies in (False, True):
        storage = Storage(f"sqlite:///{tmp_path}/{dies}.db", "study", SPACE, higher=True)
        keep = storage._keep
        lives = 0

        def kill(trial: Trial, storage: Storage = storage) -> Trial:
            storage._known.clear()
            raise Killed

        while True:
            runner = Computed(endings={2: (2, Ending("diverged", "nan"))})
            if dies:
                storage._keep = kill  # type: ignore[method-assign]
            try:
                Coordinator(plan, Budget(5), storage, runner).search()
                break
            except Killed:
                lives += 1
        storage._keep = keep  # type: ignore[method-assign]
        found.append(told(storage.trials()))
        storage.close()
    assert lives > 10
    assert found[0] == found[1]


def test_the_search_finds_a_better_trial_than_the_users(search: Searcher) -> None:
    trials = search(Computed(), trials=20, pruner="none")
    best = Order(higher=True).best(trials)
    assert best is not None and trials[0].value is not None and best.value is not None
    assert trials[0].params == DEFAULT and trials[0].default
    assert best.value > trials[0].value + 0.2
    assert 1e-3 < best.params["optim.lr"] < 1e-1


def test_successive_halving_stops_most_trials_and_continues_the_best_third(search: Searcher) -> None:
    runner = Computed()
    trials = search(runner)
    others = trials[1:]
    first, second = 1, 3  # the rungs below the 9 epochs
    assert {trial.epochs for trial in others} <= {first, second, EPOCHS}
    assert trials[0].epochs == EPOCHS and trials[0].state == "complete"
    beyond = [trial for trial in others if trial.epochs > first]
    assert len(beyond) <= -(-len(others) // 3) + 1
    assert any(trial.state == "complete" for trial in others)
    ranked = Order(higher=True).ranked(others, first)
    assert ranked[0].state == "complete", "the best at the first rung was continued to its end"
    assert max(runner.started.count(trial.number) for trial in beyond) > 1, "none waited and then went on"


def test_of_few_trials_the_best_one_goes_to_its_end(search: Searcher) -> None:
    trials = search(Computed(), trials=3)
    assert [trial.state for trial in trials].count("complete") == 2


def test_the_median_rule_stops_what_is_worse_than_the_median(search: Searcher) -> None:
    trials = search(Computed(), pruner="median", trials=16)
    stopped = [trial for trial in trials if trial.state == "open"]
    assert stopped and all(trial.epochs < EPOCHS for trial in stopped)
    complete = [trial.value for trial in trials if trial.state == "complete"]
    assert max(trial.value or 0 for trial in stopped) < max(value or 0 for value in complete)
    assert trials[0].state != "open"


def test_several_workers_share_the_trials(search: Searcher) -> None:
    trials = search(Computed(), workers=3, pruner="none")
    assert [trial.state for trial in trials] == ["complete"] * 12
    assert len({tuple(trial.params.values()) for trial in trials}) == 12


def test_a_default_outside_of_the_space_is_trial_0_all_the_same(search: Searcher) -> None:
    trials = search(Computed(), default={}, pruner="none")
    assert trials[0].params == {} and trials[0].state == "complete"
    assert all(trial.params.keys() == SPACE.parameters.keys() for trial in trials[1:])


def test_a_diverged_trial_is_noted_and_the_search_goes_on(search: Searcher) -> None:
    trials = search(Computed(endings={0: (2, Ending("diverged", "the loss became nan in epoch 3"))}), pruner="none")
    assert trials[0].state == "diverged" and "nan" in trials[0].message
    assert all(trial.state == "complete" for trial in trials[1:])


def test_a_trial_that_cannot_be_trained_fails_alone(search: Searcher) -> None:
    trials = search(Computed(endings={2: (0, Ending("refused", "augment.cutout: larger than the image"))}))
    assert trials[2].state == "failed" and "cutout" in trials[2].message


def test_a_configuration_that_cannot_be_trained_at_all_is_one_error(search: Searcher) -> None:
    runner = Computed(endings={0: (0, Ending("refused", "data.source: no such folder"))})
    with pytest.raises(KcvError, match="no such folder"):
        search(runner, workers=2)
    assert runner.started == [0], "the other workers wait until the first trial has trained an epoch"


def test_a_full_disk_ends_the_search_and_loses_nothing(search: Searcher) -> None:
    runner = Computed(endings={3: (0, Ending("broken", "cannot write model.keras: No space left on device"))})
    with pytest.raises(KcvError, match="No space left"):
        search(runner)
    runner.endings = {}
    assert told(search(runner)) == told(search(Computed(), name="undisturbed"))


def test_a_trial_whose_process_dies_goes_on_but_not_for_ever(search: Searcher) -> None:
    runner = Computed(endings={1: (0, Ending("died", "its process ended with signal 9"))})
    trials = search(runner)
    assert runner.started.count(1) == 3
    assert trials[1].state == "failed" and "signal 9" in trials[1].message


def test_two_coordinators_share_one_study(search: Searcher) -> None:
    first, second = Computed(), Computed()
    search(first, trials=5, pruner="none", owner="one")
    trials = search(second, trials=10, pruner="none", owner="two")
    assert [trial.owner for trial in trials] == ["one"] * 5 + ["two"] * 5
    assert not set(first.started) & set(second.started)


def test_a_coordinator_leaves_the_trials_of_another_one_alone(search: Searcher) -> None:
    first, second = Computed(dies=4), Computed()
    with pytest.raises(Killed):
        search(first, owner="one", pruner="none")
    trials = search(second, owner="two", pruner="none")
    assert [trial.state for trial in trials if trial.owner == "one"][-1] == "open"
    assert not set(first.started) & set(second.started)
    first.dies = None
    again = search(first, owner="one", pruner="none")
    assert all(trial.state == "complete" for trial in again)


def test_when_the_time_is_over_nothing_is_begun_and_what_runs_is_stopped(tmp_path: Path) -> None:
    order = Order(higher=True)
    storage = Storage(f"sqlite:///{tmp_path}/study.db", "study", SPACE, higher=True)
    plan = Plan(SPACE, DEFAULT, rule_of("none", EPOCHS, order), order, EPOCHS, "val_accuracy", "42", "me")
    assert Coordinator(plan, Budget(None, deadline=0.0), storage, Computed()).search()
    assert storage.trials() == []
    runner = Computed()
    asked = iter([False, False, True])
    assert not Coordinator(plan, Budget(None), storage, runner, lambda: next(asked)).search()
    assert runner.started == [0] and storage.trials()[0].state == "open"
    storage.close()


def test_validation_loss_is_optimised_where_it_is_the_monitor(tmp_path: Path) -> None:
    order = Order(higher=False)
    storage = Storage(f"sqlite:///{tmp_path}/study.db", "study", SPACE, higher=False)

    class Losses(Computed):
        def look(self, number: int) -> Report:
            found = super().look(number)
            return Report([{**row, "val_loss": 1 - row["val_accuracy"]} for row in found.rows], found.ending)

    plan = Plan(SPACE, DEFAULT, rule_of("asha", EPOCHS, order), order, EPOCHS, "val_loss", "42", "me")
    Coordinator(plan, Budget(10), storage, Losses()).search()
    best = order.best(storage.trials())
    storage.close()
    assert best is not None and best.value is not None
    assert best.value < 1 - accuracy(DEFAULT, EPOCHS)


def test_the_last_epoch_counts_where_it_is_the_one_that_is_kept(tmp_path: Path) -> None:
    order = Order(higher=True)
    storage = Storage(f"sqlite:///{tmp_path}/study.db", "study", SPACE, higher=True)

    class Falling(Computed):
        def look(self, number: int) -> Report:
            found = super().look(number)
            return Report([{**row, "val_accuracy": 1 / row["epoch"]} for row in found.rows], found.ending)

    plan = Plan(SPACE, DEFAULT, rule_of("none", EPOCHS, order), order, EPOCHS, "val_accuracy", "42", "me", keep="last")
    Coordinator(plan, Budget(1), storage, Falling()).search()
    values = storage.trials()[0].values
    storage.close()
    assert values == {epoch: 1 / epoch for epoch in range(1, EPOCHS + 1)}


class Folded(Computed):
    """Trials in folds: a row per fold, with the mean so far."""

    def look(self, number: int) -> Report:
        found = super().look(number)
        scores = [accuracy(self.params[number], EPOCHS) + 0.05 * (-1) ** n for n in range(len(found.rows))]
        rows = [
            {"epoch": n, "val_accuracy": sum(scores[:n]) / n, "val_loss": 1.0, "seconds": 1.0}
            for n in range(1, len(scores) + 1)
        ]
        return Report(rows, found.ending)


@pytest.mark.parametrize("pruner", ["asha", "median"])
def test_in_folds_a_value_is_the_mean_so_far_and_a_killed_search_is_the_same(tmp_path: Path, pruner: Pruner) -> None:
    order = Order(higher=True)
    plan = Plan(SPACE, DEFAULT, rule_of(pruner, EPOCHS, order), order, EPOCHS, "val_accuracy", "42", "me", "fold")
    found = []
    for lives in ((), (1, 3, 6, 2)):
        storage = Storage(f"sqlite:///{tmp_path}/{len(lives)}.db", "study", SPACE, higher=True)
        runner = Folded()
        for looks in lives:
            runner.dies = runner.looks + looks
            with pytest.raises(Killed):
                Coordinator(plan, Budget(8), storage, runner).search()
        runner.dies = None
        assert Coordinator(plan, Budget(8), storage, runner).search()
        found.append(told(storage.trials()))
        trials = storage.trials()
        storage.close()
    assert found[0] == found[1]
    assert trials[0].values[1] == pytest.approx(accuracy(DEFAULT, EPOCHS) + 0.05)
    assert trials[0].values[2] == pytest.approx(accuracy(DEFAULT, EPOCHS)), "the mean of two, not the better one"
    assert {trial.epochs for trial in trials} > {EPOCHS}, "some stopped early"


def test_importance_finds_what_decides(search: Searcher) -> None:
    from kcv.tuning.sampling import importance

    trials = search(Computed(), trials=24, pruner="none")
    found = importance(SPACE, trials, Order(higher=True))
    assert max(found, key=found.__getitem__) == "optim.lr"
    assert sum(found.values()) == pytest.approx(1.0)
    assert importance(SPACE, trials[:5], Order(higher=True)) == {}, "of few trials it would be chance"


class Timed(Computed):
    """Each epoch takes a second, each start two."""

    now = 0.0

    def start(self, trial: Trial) -> None:
        super().start(trial)
        self.now += 2

    def look(self, number: int) -> Report:
        before = self.trained.get(number, 0)
        found = super().look(number)
        self.now += self.trained[number] - before
        return found


def timed(path: Path, deadline: float, pruner: Pruner = "asha", workers: int = 1) -> tuple[Timed, list[Trial]]:
    """Searches until a deadline, and returns the runner and the trials."""
    order, runner = Order(higher=True), Timed()
    storage = Storage(f"sqlite:///{path}/{pruner}-{deadline}.db", "study", SPACE, higher=True)
    plan = Plan(SPACE, DEFAULT, rule_of(pruner, EPOCHS, order), order, EPOCHS, "val_accuracy", "42", "me")
    budget = Budget(None, deadline=deadline, workers=workers)
    assert Coordinator(plan, budget, storage, runner, clock=lambda: runner.now).search()
    trials = storage.trials()
    storage.close()
    return runner, trials


def test_the_leading_trial_comes_to_its_end_in_time(tmp_path: Path) -> None:
    """Without that, the last seconds would go into new trials."""
    order = Order(higher=True)
    for deadline in (44.0, 56.0, 72.0):
        runner, trials = timed(tmp_path, deadline)
        others = [trial for trial in trials if not trial.default]
        assert runner.now < deadline + 4
        assert any(trial.state == "complete" for trial in others)
        assert order.ranked(others, 1)[0].state == "complete" or order.ranked(others, 3)[0].state == "complete"


@pytest.mark.parametrize(("pruner", "workers", "deadline"), [("asha", 1, 16.0), ("asha", 2, 24.0), ("none", 1, 16.0)])
def test_where_no_trial_has_come_to_its_end_in_time_the_furthest_goes_on(
    tmp_path: Path, pruner: Pruner, workers: int, deadline: float
) -> None:
    """The user's own takes 11 s, so a second whole one cannot end in time."""
    runner, trials = timed(tmp_path, deadline, pruner, workers)
    assert trials[0].default and trials[0].state == "complete"
    done = [trial for trial in trials[1:] if trial.state == "complete"]
    assert len(done) == 1 and done[0].epochs == EPOCHS
    furthest = max(trial.epochs for trial in trials[1:] if trial is not done[0]) if len(trials) > 2 else 0
    assert furthest < EPOCHS and deadline < runner.now < deadline + 2 + EPOCHS + 6


def test_nothing_goes_on_where_not_even_the_users_own_has_come_to_its_end(tmp_path: Path) -> None:
    runner, trials = timed(tmp_path, 6.0)
    assert runner.started == [0] and [trial.state for trial in trials] == ["open"]
    assert runner.now < 10
