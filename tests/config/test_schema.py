from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from kcv.config import SHORT_FLAGS, Config
from kcv.config import shipped as shipped_configurations
from kcv.config.shipped import shipped
from kcv.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


def problems(path: Path | None = None, **overrides: Any) -> list[str]:
    """Returns the lines of the error that a load ends in."""
    with pytest.raises(ConfigError) as caught:
        Config.load(path, **overrides)
    return str(caught.value).splitlines()


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "config.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_defaults_need_no_file() -> None:
    config = Config.load()
    assert (config.data.source, config.model.name, config.optim.lr, config.train.epochs) == (
        "digits",
        "auto",
        2e-3,
        20,
    )


def test_overrides_win_over_the_file_in_every_spelling(tmp_path: Path) -> None:
    path = write(tmp_path, "seed: 1\noptim: {lr: 1e-1}\ntrain: {epochs: 5}\n")
    assert Config.load(path).optim.lr == 0.1  # not the text '1e-1' of YAML 1.1
    assert Config.load(path, lr=1e-2).optim.lr == 0.01
    assert Config.load(path, **{"optim.lr": "1e-2"}).optim.lr == 0.01
    assert Config.load(path, optim__lr="1e-2").optim.lr == 0.01
    assert Config.load(path, optim={"lr": 1e-2}).optim.lr == 0.01
    assert Config.load(path, **{"train.epochs": "7"}).train.epochs == 7
    assert Config.load(path, epochs="7").seed == 1


@pytest.mark.parametrize(("short", "key"), SHORT_FLAGS.items())
def test_a_short_flag_and_its_key_are_the_same(short: str, key: str) -> None:
    other = {"model": "custom_cnn", "data": "cifar10", "tracking": "none", "calibrate": "false"}
    value = other.get(short, "0.5" if short in ("lr", "abstain_precision", "coverage") else "3")
    assert Config.load(**{short: value}) == Config.load(**{key: value})
    assert problems(**{short: value, key: value}) == [f"{key}: given twice, as {short!r} and as {key!r}; give it once."]


def test_typed_text_stays_text_where_the_key_is_text(tmp_path: Path) -> None:
    config = Config.load(name="2026", data="1e-3", output_dir="7", **{"tracking.experiment": "true"})
    assert (config.name, config.data.source, config.output_dir, config.tracking.experiment) == (
        "2026",
        "1e-3",
        Path("7"),
        "true",
    )
    # ... and survives the file that a run leaves behind.
    assert Config.load(write(tmp_path, config.to_yaml())) == config


def test_yaml_of_a_run_loads_back_equal(tmp_path: Path) -> None:
    config = Config.load(
        lr=1e-7, epochs=1, output_dir="a b/c", name="no", **{"train.ema": 0.999, "tracking.uri": "none"}
    )
    assert Config.load(write(tmp_path, config.to_yaml())) == config
    assert Config.from_dict(config.to_dict()) == config


def test_none_turns_off_what_may_be_null() -> None:
    config = Config.load(
        **{"train.ema": "none", "train.patience": "None", "data.workers": "null", "output_dir": "null"}
    )
    assert (config.train.ema, config.train.patience, config.data.workers, config.output_dir) == (None,) * 4
    assert Config.load(tracking="none").tracking.uri == "none"
    assert Config.load(tracking="null").tracking.uri is None


def test_tracking_none_and_empty_sections_in_a_file(tmp_path: Path) -> None:
    config = Config.load(write(tmp_path, "tracking: none\naugment:\n  # flip: random\ntrain: {ema: none}\n"))
    assert (config.tracking.uri, config.augment.flip, config.train.ema) == ("none", "none", None)


def test_the_default_warm_up_fits_a_short_run() -> None:
    assert Config.load(epochs=1).optim.warmup_epochs == 0.25
    assert Config.load(epochs=30).optim.warmup_epochs == 1.0
    assert problems(epochs=2, **{"optim.warmup_epochs": 2}) == [
        "optim.warmup_epochs: received 2, allowed: less than train.epochs, which is 2."
    ]


def test_all_problems_come_at_once_each_with_value_and_what_is_allowed(tmp_path: Path) -> None:
    path = write(tmp_path, "seed: -1\nepochs: 3\ndata: {val_fraction: 1.5, workrs: 2}\nmodel: 3\n")
    lines = problems(path, lr="abc", batch_size="1.5", **{"optim.schedule": "onecycle", "train.ema": "True"})
    assert sorted(lines) == sorted(
        [
            f"{path}: seed: received -1, allowed: a whole number from 0 to 4294967295.",
            f"{path}: epochs: unknown key. Did you mean 'train.epochs'?",
            f"{path}: data.val_fraction: received 1.5, allowed: a number greater than 0 and at most 0.5.",
            f"{path}: data.workrs: unknown key. Did you mean 'data.workers'?",
            f"{path}: model: received 3, allowed: a section with the keys name, width, dropout, weights, mode, "
            "unfreeze_after, freeze_batch_norm, feature_views.",
            "optim.lr: received 'abc', allowed: a number greater than 0 and at most 100.",
            "data.batch_size: received 1.5, allowed: a whole number from 1 to 65536.",
            "optim.schedule: received 'onecycle', allowed: 'one_cycle', 'cosine', 'constant'. "
            "Did you mean 'one_cycle'?",
            "train.ema: received True, allowed: a number greater than 0 and less than 1, or null.",
        ]
    )


def test_rules_between_keys_are_checked_beside_other_problems() -> None:
    lines = problems(epochs=1, seed="x", **{"optim.warmup_epochs": 3})
    assert lines == [
        "seed: received 'x', allowed: a whole number from 0 to 4294967295.",
        "optim.warmup_epochs: received 3, allowed: less than train.epochs, which is 1.",
    ]


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            {"model": "resnet50", "model.unfreeze_after": 3, "epochs": 3, "optim.warmup_epochs": 1},
            "model.unfreeze_after: received 3, allowed: less than train.epochs, which is 3.",
        ),
        (
            {"model": "resnet50", "model.mode": "feature_extraction", "model.unfreeze_after": 2},
            "model.unfreeze_after: received 2, allowed: 0, because model.mode never unfreezes.",
        ),
        (
            {"model": "custom_cnn", "model.weights": "imagenet"},
            "model.weights: received 'imagenet', allowed: auto, none, or a file, for custom_cnn.",
        ),
        (
            {"model": "resnet50", "model.width": 2},
            "model.width: received 2, allowed: 1, except for custom_cnn.",
        ),
        (
            {"model": "resnet50", "model.mode": "feature_extraction", "model.feature_views": 2, "augment.mixup": 0.2},
            "model.feature_views: features of mixed images cannot be kept; turn mixup and cutmix off.",
        ),
        (
            {"model": "resnet50", "model.feature_views": 2},
            "model.feature_views: received 2, allowed: null, because nothing is frozen.",
        ),
        (
            {"model": "custom_cnn", "model.mode": "feature_extraction"},
            "model.weights: received 'auto', allowed: a file (or none), to freeze custom_cnn, "
            "which has no ImageNet weights.",
        ),
    ],
)
def test_rules_about_the_model(overrides: dict[str, object], line: str) -> None:
    assert problems(**overrides) == [line]


@pytest.mark.parametrize(
    ("key", "value", "part"),
    [
        ("learning_rate", 1, "Did you mean 'optim.lr'?"),
        ("train.epoch", 1, "Did you mean 'train.epochs'?"),
        ("weight_decay", 1, "Did you mean 'optim.weight_decay'?"),
        ("model", "custm_cnn", "Did you mean 'custom_cnn'?"),
        ("optim", 3, "is a section; name one of its keys: name, lr"),
        ("zzz", 3, "unknown key; there are name, seed"),
        ("seed", True, "received True, allowed: a whole number"),
        ("seed", 1.0, "received 1.0, allowed: a whole number"),
        ("lr", float("nan"), "received nan, allowed: a number"),
        ("lr", "inf", "received 'inf', allowed: a number"),
        ("lr", ".inf", "received inf, allowed: a number"),
        ("lr", "[1, 2]", "received '[1, 2]', allowed: a number"),
        ("output_dir", "", "received '', allowed: a path"),
        ("name", "../up", "received '../up', allowed: letters"),
        ("data", "", "received '', allowed: text that is not empty"),
        ("name", "x" * 500, "xxx..."),
    ],
)
def test_one_bad_override_is_one_line(key: str, value: object, part: str) -> None:
    (line,) = problems(**{key: value})
    assert line.startswith(f"{SHORT_FLAGS.get(key, key)}: " if "unknown" not in part else f"{key}: ")
    assert part in line
    assert len(line) < 300


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "is empty"),
        (b"# nothing\n", "is empty"),
        (b"- a\n- b\n", "holds a list, a mapping of keys to values is expected"),
        (b"hello", "holds text, a mapping"),
        (b"a: [1, 2", "is not valid YAML: line 1, column"),
        (b"seed: 1\nname: a\nseed: 2\n", "is not valid YAML: line 3, column 1: duplicate key 'seed'"),
        (b"data: {source: digits, source: cifar10}\n", "duplicate key 'source'"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "is not text"),
        (b"name: \x00", "is not text"),
        (b"[" * 20_000, "is not valid YAML: nested too deeply"),
        (b"name: !!python/object/apply:os.getcwd []\n", "is not valid YAML: line 1, column 7"),
        (b"{? [a, b] : c}", "a key must be text"),
        (b"seed: 1\n---\nseed: 2\n", "another document"),
        (b"a" * 1_100_000, "is larger than 1000000 bytes"),
        (b"1: 2\n", "1: unknown key"),
        (b"name: 12\n", "name: received 12, allowed: letters"),
        (b"seed: 2026-01-01\n", "seed: received '2026-01-01', allowed: a whole number"),
        (b"augment: {flip: yes}\n", "augment.flip: received 'yes', allowed: 'none', 'random', 'alternating'."),
    ],
)
def test_one_bad_file_is_one_line_with_its_name(tmp_path: Path, content: bytes, part: str) -> None:
    path = write(tmp_path, content)
    (line,) = problems(path)
    assert line.startswith(f"{path}: ")
    assert part in line


def test_a_file_that_is_not_there_names_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path, "seed: 1\n")
    assert problems(tmp_path) == [f"{tmp_path}: is a directory, a YAML file is expected."]
    missing = tmp_path / "confg.yaml"
    assert problems(missing) == [f"{missing}: no such file. Did you mean {str(path)!r}?"]


def test_the_configurations_of_kcv_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = Config.load("configs/quickstart.yaml", epochs=2)
    assert (found.name, found.data.source, found.train.epochs) == ("quickstart", "digits", 2)
    for other in (
        "configs/none.yaml",
        "quickstart.yaml",
        "a/configs/quickstart.yaml",
        str(tmp_path / "configs/a.yaml"),
    ):
        assert problems(Path(other)) == [f"{other}: no such file."]
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "quickstart.yaml").write_text("name: mine\n")
    assert Config.load("configs/quickstart.yaml").name == "mine"


def test_the_configurations_of_a_package_are_those_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped_configurations, "_PACKAGE", tmp_path / "site-packages" / "kcv")
    foreign = tmp_path / "site-packages" / "configs" / "quickstart.yaml"  # another package's
    foreign.parent.mkdir(parents=True)
    foreign.write_text("")
    assert shipped(Path("configs/quickstart.yaml")) is None
    own = tmp_path / "site-packages" / "kcv" / "configs" / "quickstart.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("")
    assert shipped(Path("configs/quickstart.yaml")) == own


def test_frozen_and_strict_in_python_too() -> None:
    config = Config.load()
    with pytest.raises(ValidationError):
        config.seed = 3  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Config(seed="3")  # type: ignore[arg-type]


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_configuration_loads(path: Path) -> None:
    Config.load(path)


def test_every_key_says_what_it_means() -> None:
    from kcv.config.keys import specify

    silent = [key.name for key in specify(Config, SHORT_FLAGS).keys.values() if len(key.description) < 8]
    assert silent == []


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"alias": "champion"}, "tracking.alias: needs tracking.register=NAME, the model that the alias is of."),
        ({"register": "a/b"}, "tracking.register: received 'a/b', allowed: a name without slash and colon"),
        ({"register": "a", "alias": "a b"}, "tracking.alias: received 'a b', allowed: letters, digits"),
        ({"register": "a", "alias": "latest"}, "tracking.alias: received 'latest', allowed: a name other than latest"),
        ({"register": "a", "alias": "v12"}, "tracking.alias: received 'v12', allowed: a name other than latest, v1"),
    ],
)
def test_a_name_that_mlflow_refuses_is_refused_before_training(keys: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.load(**{f"tracking.{key}": value for key, value in keys.items()})
    assert str(caught.value).startswith(told)
    assert "\n" not in str(caught.value)
    config = Config.load(**{"tracking.register": "cats and dogs", "tracking.alias": "champion-2"})
    assert (config.tracking.register, config.tracking.alias) == ("cats and dogs", "champion-2")
