"""Runs in W&B's own files, which `wandb sync` uploads: nothing here reaches a server."""

from __future__ import annotations

import importlib.util
import os
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kcv.config import TrackingConfig
from kcv.errors import TrackingError
from kcv.tracking import DataRecord, StoreRejected, StoreUnavailable, Tracker, open_tracker

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="needs kcv[wandb]"),
    pytest.mark.filterwarnings("ignore"),  # of W&B's own packages
]

Messages = Callable[[], list[str]]
_BLOCK = 2**15
RECORD = DataRecord("photos", "train", "a" * 32, "/photos", "path", 10, 32, "f" * 64, {"a": 4, "b": 6})


@pytest.fixture(autouse=True)
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name in ("WANDB_DISABLE_GIT", "WANDB_SILENT"):  # kcv sets them
        monkeypatch.setenv(name, "false")
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "settings"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "wandb-cache"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    git = tmp_path / "bin" / "git"  # a folder may name programs that git runs, so git must not be asked
    git.parent.mkdir()
    git.write_text(f"#!/bin/sh\ntouch {tmp_path / 'git was run'}\nexit 1\n")
    git.chmod(0o755)
    monkeypatch.setenv("PATH", f"{git.parent}{os.pathsep}{os.environ['PATH']}")
    yield
    import wandb

    wandb.teardown()
    assert not (tmp_path / "git was run").exists()


def track(state: dict[str, str | None] | None = None) -> Tracker:
    tracker = open_tracker(TrackingConfig(uri="wandb:photos"))
    tracker.load_state_dict(state or {})
    tracker.start("mine", {"optim.lr": 0.1, "data.fold": None}, {"note": "a note", "git_commit": "4fe2"})
    return tracker


def records(folder: Path) -> list[Any]:
    """Returns what a run's file holds."""
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = folder.glob("*.wandb")
    content = file.read_bytes()
    place, found, data = 7, [], b""  # after the file's own header; the format is LevelDB's log
    while place + 7 <= len(content):
        if place % _BLOCK > _BLOCK - 7:
            place += _BLOCK - place % _BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        data += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            found.append(Record.FromString(data))
            data = b""
    return found


def test_a_run_is_written_without_a_server_and_goes_on_under_its_id(
    tmp_path: Path, messages: Messages, spools: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run" / "plots").mkdir(parents=True)
    (tmp_path / "run" / "plots" / "a.png").write_bytes(b"png")
    (tmp_path / "run" / "b[1].txt").write_text("b")
    first = track()
    first.log_datasets([RECORD])
    first.log_metrics({"loss": 1.0}, 1)
    first.log_metrics({"system/cpu_utilization_percentage": 9.0}, 10)
    first.log_metrics({"loss": 0.5}, 2)
    first.log_metrics({"test_accuracy": 0.75}, 1)
    first.log_artifacts(tmp_path / "run")
    first.finish()
    ended = int(time.time())
    while int(time.time()) <= ended:  # wandb names the folder of a run by the second in which it begins
        time.sleep(0.02)
    second = track(first.state_dict())
    assert second.state_dict() == first.state_dict()
    second.log_metrics({"loss": 0.25}, 3)
    second.finish("FAILED")
    run_id = str(first.state_dict()["run"])
    folders = sorted((tmp_path / "wandb").glob(f"offline-run-*-{run_id}*"), key=lambda path: path.stat().st_mtime_ns)
    assert len(folders) == 2
    written = records(folders[0])
    (run,) = (record.run for record in written if record.HasField("run"))
    assert (run.run_id, run.display_name, run.project, run.notes) == (run_id, "mine", "photos", "a note")
    rows = [
        {item.key or "/".join(item.nested_key): float(item.value_json) for item in record.history.item}
        for record in written
        if record.HasField("history")
    ]
    assert [(row["epoch"], row.get("loss")) for row in rows] == [(1, 1.0), (2, 0.5), (1, None)]
    assert rows[2]["test_accuracy"] == 0.75
    assert sorted(path.name for path in (folders[0] / "files").rglob("*.png")) == ["a.png"]
    assert (folders[0] / "files" / "b[1].txt").read_text() == "b"
    assert not (folders[0] / "files" / "wandb-metadata.json").exists()  # it would hold the command
    assert [record.exit.exit_code for record in records(folders[1]) if record.HasField("exit")] == [1]
    assert messages() == []
    assert capfd.readouterr() == ("", "")
    assert list(spools.iterdir()) == []


def test_what_would_ask_or_go_elsewhere_is_refused_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "settings").write_text("[default]\nbase_url = https://elsewhere.example\n")
    with pytest.raises(TrackingError, match=r"wandb/settings names a server; if that is right, set WANDB_BASE_URL"):
        track()
    (tmp_path / "wandb" / "settings").unlink()
    monkeypatch.setenv("WANDB_MODE", "online")
    import wandb

    wandb.teardown()
    with pytest.raises(TrackingError, match="wandb:photos needs a key: `wandb login`, or WANDB_API_KEY; or WAND"):
        track()


def test_an_error_of_the_client_is_the_stores() -> None:
    import wandb

    from kcv.tracking.wandb import _errors

    for error, kind in (
        (wandb.errors.CommError("down"), StoreUnavailable),
        (BrokenPipeError("its process has ended"), StoreUnavailable),
        (wandb.errors.AuthenticationError("a wrong key"), StoreRejected),
        (ValueError("a wrong value"), StoreRejected),
    ):
        with pytest.raises(kind, match=str(error)), _errors():
            raise error
