"""A run folder of somebody else reaches no other machine, and no file elsewhere, by itself."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection
from pathlib import Path

import pytest

from kcv.cli import main
from kcv.common.seal import is_own, signature
from kcv.config import Config
from kcv.errors import OutputError, UsageError
from kcv.tracking import MlflowTracker, stays_inside
from kcv.training.resume.consent import require_named
from kcv.training.resume.record import Record
from kcv.training.run_folder import RunFolder

SERVER = "http://tracker.example:5000"


def began(folder: Path, **overrides: object) -> tuple[Config, Record]:
    """Writes what a run leaves before its first step; returns its configuration and its record."""
    config = Config.load(**{"tracking": "none", "output_dir": str(folder), **overrides})
    folder.mkdir()
    (folder / "config.yaml").write_text(config.to_yaml())
    record = Record(
        config=config.flatten(),
        fingerprint="f",
        counts={"train": 9},
        device="cpu",
        precision="float32",
        surroundings={},
    )
    record.write(folder / "resume" / "run.json")
    return config, Record.read(folder / "resume" / "run.json")


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Makes all that follows be of another user."""
    monkeypatch.setenv("KCV_CACHE_DIR", str(tmp_path / "another user"))


def test_a_run_is_its_users_own_also_when_it_was_copied(tmp_path: Path) -> None:
    config, record = began(tmp_path / "run", tracking=SERVER, data="https://example.org/data.parquet")
    require_named(config, record, (), tmp_path)
    shutil.move(tmp_path / "run", tmp_path / "moved")
    moved = Record.read(tmp_path / "moved" / "resume" / "run.json")
    assert moved.own
    require_named(config, moved, (), tmp_path)


def test_a_strangers_store_and_data_have_to_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, _ = began(tmp_path / "run", tracking=SERVER, data="https://example.org/data.parquet")
    monkeypatch.setenv("KCV_CACHE_DIR", str(tmp_path / "another user"))
    record = Record.read(tmp_path / "run" / "resume" / "run.json")
    assert not record.own
    cases: list[tuple[Collection[str], str]] = [
        ((), r"the tracking store http://tracker.example:5000 and the data https://.*--tracking=none --data="),
        (("tracking.uri",), r"names the data https://example.org/data.parquet"),
        (("data.source", "optim.lr"), r"names the tracking store"),
    ]
    for named, message in cases:
        with pytest.raises(UsageError, match=message):
            require_named(config, record, named, tmp_path / "run")
    require_named(config, record, ("tracking.uri", "data.source"), tmp_path / "run")
    require_named(config, record, None, tmp_path / "run")


def test_a_strangers_registered_model_has_to_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {"tracking.register": "photos", "tracking.alias": "champion"}
    config, record = began(tmp_path / "run", tracking="sqlite:///mlflow.db", **keys)
    require_named(config, record, (), tmp_path / "run")
    changed = Config.load(tracking="sqlite:///mlflow.db", **{"tracking.register": "other"})
    with pytest.raises(UsageError, match="names the registered model other"):
        require_named(changed, record, (), tmp_path / "run")
    monkeypatch.setenv("KCV_CACHE_DIR", str(tmp_path / "another user"))
    record = Record.read(tmp_path / "run" / "resume" / "run.json")
    with pytest.raises(UsageError, match=r"names the registered model photos.*--tracking\.register=NAME"):
        require_named(config, record, (), tmp_path / "run")
    require_named(config, record, ("tracking.register",), tmp_path / "run")
    require_named(Config.load(tracking="none", **keys), record, (), tmp_path / "run")


def test_a_store_that_was_changed_since_has_to_be_named(tmp_path: Path) -> None:
    _, record = began(tmp_path / "run")
    changed = Config.load(tracking=SERVER)
    assert record.own
    with pytest.raises(UsageError, match="names the tracking store"):
        require_named(changed, record, (), tmp_path / "run")


@pytest.mark.parametrize(
    "uri",
    [
        None, "none", "sqlite:///mlflow.db", "sqlite:///below/store.db", "mlflow.db", "tensorboard:logs",
        "mlflow.db,tensorboard:logs",
    ],
)  # fmt: skip
@pytest.mark.usefixtures("elsewhere")
def test_what_stays_in_the_working_folder_needs_no_name(
    uri: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config, record = began(tmp_path / "run", tracking=uri)
    monkeypatch.setenv("KCV_CACHE_DIR", str(tmp_path / "a third user"))
    earlier = record.model_copy(update={"sha256": None, "signature": None})
    for one in (record, earlier):
        require_named(config, one, (), tmp_path / "run")


@pytest.mark.parametrize(
    "uri",
    [
        "sqlite:////etc/store.db", "sqlite:///../store.db", "sqlite:///.config/cookies.sqlite", "sqlite:///link/store.db",
        "sqlite:///file:/etc/passwd?uri=true", "sqlite:///store.db?mode=ro", "sqlite+pysqlite:///store.db",
        "postgresql://host/db", "https://host", "databricks", "wandb:photos", "mlflow.db,wandb:photos",
        "tensorboard:/etc", "tensorboard:../logs", "tensorboard:~/logs", "tensorboard:link/logs", "tensorboard:",
        "tensorboard:logs,sqlite:////etc/store.db", "/etc/store.db",
    ],
)  # fmt: skip
def test_other_stores_lie_elsewhere(uri: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc")
    assert not stays_inside(uri, tmp_path)


def test_the_command_line_refuses_a_strangers_run_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    began(tmp_path / "run", tracking=SERVER)
    monkeypatch.setenv("KCV_CACHE_DIR", str(tmp_path / "another user"))
    for more in ([], ["--data.workers=0"]):
        assert main(["train", f"--resume={tmp_path / 'run'}", *more]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "names the tracking store" in line and "--tracking=none" in line


@pytest.mark.parametrize("change", ["edited", "unsigned", "key of another"])
def test_who_has_no_key_cannot_make_a_run_anothers_own(change: str, tmp_path: Path) -> None:
    began(tmp_path / "run")
    path = tmp_path / "run" / "resume" / "run.json"
    values = json.loads(path.read_text())
    values.pop("sha256")
    match change:
        case "edited":
            values["config"]["tracking.uri"] = SERVER
        case "unsigned":
            del values["signature"]
        case _:
            values["signature"] = "0" * 64
    path.write_text(json.dumps(values))
    assert not Record.read(path).own


def test_the_key_is_its_owners_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signed = signature({"a": 1})
    assert is_own({"a": 1}, signed) and not is_own({"a": 2}, signed)
    (key,) = (tmp_path / "cache").iterdir()
    assert key.stat().st_mode & 0o077 == 0
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert not is_own({"a": 1}, signed)


def test_without_a_place_for_a_key_nothing_is_signed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("KCV_CACHE_DIR", str(tmp_path / "file"))
    assert signature({"a": 1}) is None


@pytest.mark.parametrize(
    "name", ["config.yaml", "environment.json", "history.csv", "model.keras", "metrics.json", "report.html",
             "MODEL_CARD.md", "resume/run.json", "resume/lock", "resume", "evaluation", "evaluation/metrics.json",
             "evaluation/deep/down"]
)  # fmt: skip
def test_links_in_the_folder_are_refused(name: str, tmp_path: Path) -> None:
    began(tmp_path / "run")
    path = tmp_path / "run" / name
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "secret").write_text("secret")
    path.symlink_to(tmp_path / "secret")
    with pytest.raises(OutputError, match="is a link, which is not followed"):
        RunFolder.existing(tmp_path / "run")
    assert (tmp_path / "secret").read_text() == "secret"


def test_other_links_of_the_user_are_left_alone(tmp_path: Path) -> None:
    began(tmp_path / "run")
    (tmp_path / "run" / "notes.txt").symlink_to(tmp_path / "notes")
    (tmp_path / "by another way").symlink_to(tmp_path / "run")
    RunFolder.existing(tmp_path / "by another way")


@pytest.mark.parametrize(
    ("run", "known"), [("a" * 32, True), ("spool-0123456789abcdef", True), ("spool-../../x", False), ("", False)]
)
def test_a_record_is_continued_only_under_a_name_that_can_be_one(run: str, known: bool, tmp_path: Path) -> None:
    tracker = MlflowTracker(f"sqlite:///{tmp_path}/mlflow.db", "kcv")
    tracker.load_state_dict({"location": tracker.location, "run": run})
    assert tracker.state_dict()["run"] == (run if known else None)


def test_a_record_kept_elsewhere_is_not_continued(tmp_path: Path) -> None:
    tracker = MlflowTracker(f"sqlite:///{tmp_path}/mlflow.db", "kcv")
    tracker.load_state_dict({"location": "http://elsewhere:5000", "run": "a" * 32})
    assert tracker.state_dict()["run"] is None
