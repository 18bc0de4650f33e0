"""The search space: what can be searched, and what is refused before the first trial."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from mutants import value_mutants

from kcv.config import Config
from kcv.errors import ConfigError
from kcv.tuning.space import Choices, Range, check_space, default_space, read_space
from kcv.tuning.study import Configurations, StudyFolder, write_best

BASE = Configurations({"model": {"name": "custom_cnn"}, "optim": {"lr": 0.002}}, {"train.epochs": 4}, {})


def test_a_space_has_ranges_and_choices_by_dotted_key_section_or_short_flag(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(
        "lr: {low: 1.0e-4, high: 1.0e-2, log: true}\noptim:\n  label_smoothing: {low: 0, high: 0.2, step: 0.05}\n"
        "augment.policy: [none, light]\ndata.batch_size: {low: 16, high: 64, step: 16}\nmodel.dropout: [null, 0.5]\n"
    )
    found = read_space(path, BASE)
    assert found.parameters == {
        "optim.lr": Range(1e-4, 1e-2, log=True),
        "optim.label_smoothing": Range(0.0, 0.2, step=0.05),
        "augment.policy": Choices(("none", "light")),
        "data.batch_size": Range(16, 64, step=16, whole=True),
        "model.dropout": Choices((None, 0.5)),
    }
    assert check_space(found.to_dict(), BASE) == found, "as study.json stores it"


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({}, "names no key"),
        ({"optim.lr": 0.1}, "optim.lr: received 0.1, allowed: a range such as"),
        ({"optim.lrr": [1, 2]}, "optim.lrr: unknown key. Did you mean 'optim.lr'?"),
        ({"lr": {"low": 0, "high": 1, "log": True}}, "optim.lr: low: received 0, allowed: greater than 0, because log"),
        ({"lr": {"low": 1, "high": 0.1}}, "optim.lr: low is 1 and high is 0.1, allowed: low less than high."),
        ({"lr": {"low": 0.1, "high": 1000}}, "optim.lr: received 1000.0, allowed: a number greater than 0 and at most"),
        (
            {"lr": {"low": 0.1, "high": 1, "lo": 1}},
            "optim.lr: received 'lo', allowed in a range: low, high, log, step.",
        ),
        ({"lr": {"low": "a", "high": 1}}, "optim.lr: low: received 'a', allowed: a number."),
        ({"lr": {"low": 0.1, "high": 10**400}}, "optim.lr: high: received "),
        ({"lr": {"low": 0.1, "high": 1, "log": True, "step": 0.1}}, "optim.lr: step: allowed without log only."),
        (
            {"lr": {"low": 0.1, "high": 1, "step": 0.4}},
            "optim.lr: high: received 1, allowed: low and a multiple of step.",
        ),
        ({"lr": [0.1, 0.1]}, "optim.lr: has the choice 0.1 twice."),
        ({"lr": [0.1]}, "optim.lr: has 1 choices, allowed: 2 to 50."),
        ({"lr": [0.1], "optim": {"lr": [0.1, 0.2]}}, "optim.lr: has 1 choices"),
        ({"lr": [0.1, 0.2], "optim.lr": [0.1, 0.2]}, "optim.lr: given twice; give it once."),
        ({"data.batch_size": {"low": 16, "high": 64.5}}, "data.batch_size: its values are whole numbers"),
        ({"augment.policy": ["none", "nonsense"]}, "augment.policy: received 'nonsense', allowed: 'none', 'light'"),
        ({"augment.policy": {"low": 1, "high": 2}}, "augment.policy: received a range, allowed: a list of choices"),
        (
            {"data.source": ["digits", "cifar10"]},
            "data.source: cannot be searched, because all trials must be compared",
        ),
        ({"train.epochs": [1, 2]}, "train.epochs: cannot be searched, because all trials have the same length"),
        ({"seed": [1, 2]}, "seed: cannot be searched, because a lucky seed"),
        ({"optim.momentum": [0.8, 0.9]}, "optim.momentum: has no effect, because optim.name is adamw."),
        ({"model.feature_views": [1, 2]}, "model.feature_views: received 1, allowed: null, because nothing is frozen."),
        (
            {"data.sampling": ["none", "balanced"], "data.class_weights": ["none", "balanced"]},
            "data.sampling='balanced' with data.class_weights='balanced': data.sampling: received 'balanced'",
        ),
    ],
)
def test_what_makes_no_sense_is_one_line_before_the_first_trial(values: Mapping[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_space(values, BASE, "space.yaml")
    lines = str(error.value).splitlines()
    assert any(line.startswith(f"space.yaml: {told}") for line in lines), lines


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        check_space({"lr": [1], "seed": [1, 2], "foo": [1, 2]}, BASE)
    assert len(error.value.problems) == 3


def test_a_space_with_one_thing_changed_is_used_or_refused_in_short_lines() -> None:
    sound = {"optim.lr": {"low": 0.1, "high": 1.0, "log": True}, "augment.policy": ["none", "light"]}
    for words, value in value_mutants(sound):
        if not isinstance(value, dict):
            continue  # read_mapping refuses it
        try:
            check_space(value, BASE)
        except ConfigError as error:
            assert all(len(line) < 500 and "\n" not in line for line in error.problems), words


def test_the_default_space_holds_the_configuration_itself() -> None:
    for given in (
        {},
        {"optim.lr": 0.06, "augment.policy": "photos"},
        {"optim.weight_decay": 0.0, "model.dropout": 0.1},
    ):
        base = Configurations(BASE.values, {**BASE.given, **given}, {})
        space = default_space(base({}), base)
        assert "optim.lr" in space.parameters
        assert space.holds(base({}).flatten()), given
        assert check_space(space.to_dict(), base) == space


def test_no_two_choices_of_the_default_space_are_the_same_network() -> None:
    for name, choices in (("custom_cnn", (None, 0.2, 0.4)), ("resnet50", (None, 0.0, 0.2, 0.4))):
        base = Configurations({"model": {"name": name}}, {}, {})
        assert default_space(base({}), base).parameters["model.dropout"] == Choices(choices), name


def test_augmentation_that_was_set_key_by_key_is_not_searched_as_a_whole() -> None:
    base = Configurations({"augment": {"flip": "random"}, "model": {"name": "custom_cnn"}}, {}, {})
    assert "augment.policy" not in default_space(base({}), base).parameters


def test_the_best_configuration_is_a_file_that_train_takes(tmp_path: Path) -> None:
    base = Configurations(
        {"data": {"source": "https://me:secret@host/data.parquet"}, "model": {"name": "custom_cnn"}}, {}, {}
    )
    chosen = base.without_credentials()({"optim.lr": 0.01, "augment.policy": "light"})
    write_best(StudyFolder(tmp_path), chosen)
    text = (tmp_path / "best.yaml").read_text()
    assert "secret" not in text
    found = Config.load(tmp_path / "best.yaml")
    assert (found.optim.lr, found.augment, found.model.name) == (0.01, chosen.augment, "custom_cnn")
    assert found.optim == chosen.optim


def test_a_trial_reads_no_test_split_draws_nothing_and_registers_nothing() -> None:
    base = Configurations(
        {"tracking": {"register": "ours", "alias": "champion"}, "train": {"checkpoint_seconds": None}}, {}, {}
    )
    trial = base.trial({"optim.lr": 0.01}, parent="abc", seed=7)
    assert (trial.train.final_split, trial.train.plots, trial.seed, trial.optim.lr) == ("val", False, 7, 0.01)
    assert (trial.tracking.register, trial.tracking.alias, trial.tracking.parent) == (None, None, "abc")
    assert trial.train.checkpoint_seconds == 30.0, "without checkpoints it could not go on"
