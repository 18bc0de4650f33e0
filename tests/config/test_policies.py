"""One word for a set of augmentation keys, and what typed values do to those of a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from kcv.config import AugmentConfig, Config
from kcv.config.policies import POLICIES
from kcv.errors import ConfigError

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
each_policy = pytest.mark.parametrize("policy", POLICIES)


def problems(path: Path | None = None, **overrides: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        Config.load(path, **overrides)
    return caught.value.problems


@each_policy
def test_every_key_of_a_policy_is_valid_and_changes_something(policy: str) -> None:
    plain = AugmentConfig()
    config = AugmentConfig(policy=policy)
    assert policy in AugmentConfig.model_fields["policy"].annotation.__args__  # type: ignore[union-attr]
    for key, value in POLICIES[policy].items():
        assert getattr(config, key) == value != getattr(plain, key)
    others = AugmentConfig.model_fields.keys() - POLICIES[policy].keys() - {"policy"}
    assert all(getattr(config, key) == getattr(plain, key) for key in others)
    assert not {"mixup", "cutmix", "crop_padding", "cutout"} & POLICIES[policy].keys()


def test_policies_and_choices_are_the_same() -> None:
    assert set(AugmentConfig.model_fields["policy"].annotation.__args__) == POLICIES.keys()  # type: ignore[union-attr]


def test_single_keys_replace_those_of_the_policy() -> None:
    config = Config.load(**{"augment.policy": "photos", "augment.rotation": 0, "augment.mixup": 0.2})
    assert (config.augment.rotation, config.augment.mixup, config.augment.hue) == (0, 0.2, 0.02)


@each_policy
def test_a_written_configuration_is_read_back_and_takes_another_policy(policy: str, tmp_path: Path) -> None:
    config = Config.load(**{"augment.policy": policy, "augment.cutout": 3})
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml(), encoding="utf-8")
    assert Config.load(path) == config
    other = Config.load(path, **{"augment.policy": "augmix"}).augment
    assert other == AugmentConfig(policy="augmix", cutout=3)


def test_a_policy_takes_no_layers_of_another_library_beside_it() -> None:
    lines = problems(**{"augment.policy": "photos", "augment.library": "keras", "augment.layers": ["RandomFlip"]})
    assert lines == [
        "augment.policy: received 'photos', allowed: 'none', because augment.library is keras, which changes the "
        "images by augment.layers alone."
    ]


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("policy", "foto", "'photos'"),
        ("auto_augment", "autoaugment", "'randaugment', 'trivialaugment', 'augmix'"),
        ("resized_crop", 0, "a number greater than 0 and at most 1"),
        ("resized_crop", 1.5, "a number greater than 0 and at most 1"),
        ("vertical_flip", 0.5, "true or false"),
        ("rotation", -1, "a number from 0 to 180"),
        ("translate", "far", "a number from 0 to 1"),
        ("scale", 1, "a number at least 0 and less than 1"),
        ("shear", 90, "a number from 0 to 60"),
        ("perspective", 0.5, "a number from 0 to 0.4"),
        ("num_ops", 0, "a whole number from 1 to 14"),
        ("magnitude", 31, "a whole number from 0 to 30"),
        ("grayscale", 2, "a number from 0 to 1"),
        ("blur", True, "a number from 0 to 1"),
    ],
)
def test_bad_values_are_one_line_each(key: str, value: object, allowed: str) -> None:
    (line,) = problems(**{f"augment.{key}": value})
    assert line.startswith(f"augment.{key}: received {value!r}, allowed: ")
    assert allowed in line


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_each_shipped_configuration_takes_a_single_epoch(path: Path) -> None:
    assert Config.load(path, epochs=1).train.epochs == 1
    assert Config.load(path, train={"epochs": 2}).train.epochs == 2


def test_a_run_that_ends_in_its_first_stage_trains_the_head_alone(tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    path.write_text("model: {name: resnet50, unfreeze_after: 2, feature_views: 1}\n", encoding="utf-8")
    for epochs, stage in ((1, ("feature_extraction", 0)), (2, ("feature_extraction", 0)), (3, ("fine_tuning", 2))):
        model = Config.load(path, epochs=epochs).model
        assert (model.mode, model.unfreeze_after) == stage
    assert problems(path, epochs=2, **{"model.unfreeze_after": 2}) == [
        "model.unfreeze_after: received 2, allowed: less than train.epochs, which is 2."
    ]


def test_the_warm_up_is_a_number_of_epochs_or_a_fraction(tmp_path: Path) -> None:
    path = tmp_path / "fraction.yaml"
    path.write_text("optim: {warmup_fraction: 0.2}\n", encoding="utf-8")
    optim = Config.load(path).optim
    assert (optim.warmup_fraction, optim.warmup_epochs) == (0.2, None)
    optim = Config.load(path, **{"optim.warmup_epochs": 3}).optim
    assert (optim.warmup_fraction, optim.warmup_epochs) == (None, 3)
    path.write_text("optim: {warmup_epochs: 4}\n", encoding="utf-8")
    optim = Config.load(path, epochs=1, **{"optim.warmup_fraction": 0.5}).optim
    assert (optim.warmup_fraction, optim.warmup_epochs) == (0.5, None)
    assert problems(**{"optim.warmup_fraction": 0.2, "optim.warmup_epochs": 3}) == [
        "optim.warmup_fraction: received 0.2 beside optim.warmup_epochs, allowed: one of the two."
    ]
    assert Config.load(**{"optim.warmup_epochs": "null", "epochs": 2}).optim.warmup_epochs == 0.5
    (line,) = problems(**{"optim.warmup_fraction": 1})
    assert line == "optim.warmup_fraction: received 1, allowed: a number at least 0 and less than 1, or null."


def test_what_a_file_keeps_gives_way_to_how_the_best_epoch_is_found(tmp_path: Path) -> None:
    path = tmp_path / "last.yaml"
    path.write_text("train: {keep: last}\n", encoding="utf-8")
    assert Config.load(path).train.keep == "last"
    assert Config.load(path, **{"train.patience": 3}).train.keep == "best"
    assert Config.load(path, **{"train.monitor": "val_loss"}).train.keep == "best"
    assert Config.load(path, **{"train.patience": 3, "train.keep": "last"}).train.keep == "last"
