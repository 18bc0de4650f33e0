"""What may not be read, and users without a home: one line, or a way around, and no traceback."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kcv.cli import main
from kcv.common import download
from kcv.common.files import home, write_text
from kcv.config import Config
from kcv.data.parquet.shards import local_shards
from kcv.errors import KcvError, OutputError
from kcv.images import find
from kcv.models import registry
from kcv.tracking.mlflow import _with_home
from kcv.training.run_folder import RunFolder


@pytest.fixture
def closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose contents may not be reached; root, who runs the tests of many machines, may reach all others."""
    folder = tmp_path / "closed"
    folder.mkdir()

    def refuse(call: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(path: Any, *args: Any, **options: Any) -> Any:
            if isinstance(path, str | Path) and os.fspath(path).startswith(f"{folder}{os.sep}"):
                raise PermissionError(13, "Permission denied", os.fspath(path))
            return call(path, *args, **options)

        return guarded

    for name in ("stat", "lstat", "open", "listdir", "scandir", "mkdir"):
        monkeypatch.setattr(os, name, refuse(getattr(os, name)))
    monkeypatch.setattr("builtins.open", refuse(open))
    monkeypatch.setattr("io.open", refuse(open))
    return folder


def one_line(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) in (0, 2)
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert error.count("\n") <= 1
    return error


def test_folders_that_variables_name_may_be_closed(
    closed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KCV_DATA_DIR", str(closed / "data"))
    monkeypatch.setenv("KCV_WEIGHTS_DIR", str(closed / "weights"))
    monkeypatch.setenv("KERAS_HOME", str(closed / "keras"))
    assert "neither cifar10, digits nor an existing path" in one_line(capsys, "check", "foo")
    assert "KCV_DATA_DIR" in one_line(capsys, "check", "cifar10")
    assert one_line(capsys, "models") == ""
    one_line(capsys, "train", str(closed / "c.yaml"))
    one_line(capsys, "train", f"--data={closed / 'x'}")
    one_line(capsys, "train", f"--resume={closed / 'x'}")


@pytest.mark.parametrize("name", ["m.onnx", "m.keras"])
def test_a_model_file_in_a_closed_folder_is_one_line(
    closed: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", f"--model={closed / name}"]) == 2
    assert capsys.readouterr().err.endswith(f"{closed / name}: cannot be read: Permission denied\n")


def test_what_a_pattern_finds_may_be_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shut, stat = tmp_path / "shut.png", os.stat
    shut.touch()

    def refuse(path: Any, *args: Any, **options: Any) -> Any:
        if os.fspath(path) == str(shut):
            raise PermissionError(13, "Permission denied", str(shut))
        return stat(path, *args, **options)

    monkeypatch.setattr(os, "stat", refuse)
    assert list(find([tmp_path / "*"])) == [shut]  # who reads it says why it cannot be


def test_a_link_that_cannot_be_followed_is_no_shard(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert local_shards(tmp_path) == []


def test_nothing_is_written_into_a_closed_folder(closed: Path) -> None:
    with pytest.raises(OutputError, match="Permission denied"):
        write_text(closed / "a.csv", "x")
    with pytest.raises(OutputError, match="Permission denied"):
        RunFolder.create(Config.load(output_dir=str(closed / "run")))


@pytest.mark.parametrize("name", ["x" * 5000, "a/" * 2000, "a\0b"])
def test_names_that_no_system_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    for key in ("output_dir", "data", "model.weights", "tracking"):
        with pytest.raises(KcvError) as caught:
            config = Config.load(**{"model": "resnet50", key: name})
            if key == "output_dir":
                RunFolder.create(config)
                if name.startswith("a/"):
                    raise OutputError("some systems take it")
            elif key == "data":
                from kcv.data.loading import open_source

                open_source(config.data.source)
            elif key == "model.weights":
                from kcv.models.weights.loading import load

                load(config.model)
            else:
                from kcv.tracking import open_tracker

                open_tracker(config.tracking)
        assert len(str(caught.value).splitlines()) == 1


def test_a_user_without_a_home_has_a_temporary_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import pwd

    def unknown(user: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {user}")

    for name in ("HOME", "KCV_CACHE_DIR", "XDG_CACHE_HOME", "KCV_WEIGHTS_DIR", "KERAS_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    download._temporary_cache.cache_clear()
    assert home() is None
    own = download.cache_dir()
    assert own == download.cache_dir() == tmp_path / f"kcv-cache-{os.getuid()}"
    assert own.stat().st_mode & 0o077 == 0
    assert registry.get("resnet50").weights is None
    assert one_line(capsys, "models") == ""
    with _with_home():
        assert home() == own  # MLflow asks for one when it is imported
    assert home() is None
    own.chmod(0o755)  # as another user could have made it
    download._temporary_cache.cache_clear()
    assert download.cache_dir() != own
    assert not (tmp_path / "~").exists()
    download._temporary_cache.cache_clear()
