"""Data that have changed since training: measured where this user began the run, and named again elsewhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kcv import artifact
from kcv.cli import main
from kcv.config import Config

REFUSED = "is not what the model was trained on, or has changed since"
CHANGED = "photos has changed since the model was trained on it"


@pytest.fixture
def run(configure: Callable[..., Config], images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run of this user, on images that a relative path names, of which one is then removed."""
    from kcv.tasks.train import train

    shutil.copytree(images, tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    done = train(configure(data="photos", epochs=1))
    (tmp_path / "photos" / "test" / "left" / "000.png").unlink()
    return done.directory


def _evaluate(run: Path, *words: str) -> int:
    return main(["evaluate", str(run), "--plots=false", "--format=json", *words])


def test_a_run_of_ones_own_is_measured_with_one_warning(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert _evaluate(run) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["n"] == 23
    assert told.err.count("has changed since") == 1
    assert CHANGED in told.err


def test_a_run_that_was_moved_is_still_ones_own(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.move(run, tmp_path / "moved")
    assert _evaluate(tmp_path / "moved") == 0
    assert CHANGED in capsys.readouterr().err


@pytest.mark.full
def test_what_a_stranger_began_or_changed_is_refused(
    run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(folder: Path) -> None:
        assert _evaluate(folder) == 2
        error = capsys.readouterr().err
        assert REFUSED in error and "--data=" in error
        assert error.count("\n") == 1

    # A model file without its run.
    (tmp_path / "alone").mkdir()
    shutil.copy(run / "model.keras", tmp_path / "alone" / "model.keras")
    refused(tmp_path / "alone")
    # The signature of one run beside a model that names other data.
    shutil.copytree(images, tmp_path / "private")
    (tmp_path / "private" / "test" / "left" / "001.png").unlink()
    shutil.copytree(run, tmp_path / "mixed")
    info = artifact.read_info(run / "model.keras")
    config = {**info.config, "data": {**info.config["data"], "source": str(tmp_path / "private")}}
    artifact.describe_again(tmp_path / "mixed" / "model.keras", info.model_copy(update={"config": config}))
    refused(tmp_path / "mixed")
    # A relative path that is made to lead elsewhere.
    shutil.copytree(run, tmp_path / "bent")
    (tmp_path / "other").mkdir()
    (tmp_path / "photos").rename(tmp_path / "other" / "photos")
    path = tmp_path / "bent" / "environment.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "working_folder": str(tmp_path / "other")}))
    refused(tmp_path / "bent")
    (tmp_path / "other" / "photos").rename(tmp_path / "photos")
    # A signature that is none, and one with another user's key.
    for number, wrong in enumerate(("0" * 64, 3, None)):
        folder = tmp_path / f"wrong {number}"
        shutil.copytree(run, folder)
        path = folder / "environment.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "data_signature": wrong}))
        refused(folder)
    monkeypatch.setenv("KCV_CACHE_DIR", str(tmp_path / "another user"))
    refused(run)
    # Named, it is measured.
    assert _evaluate(run, "--data=photos") == 0


@pytest.mark.long
def test_compare_and_export_take_ones_own_changed_data_with_one_warning(
    run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "val"):
        (tmp_path / "photos" / split / "left" / "000.png").unlink()
    shutil.copytree(run, tmp_path / "second")
    copied = tmp_path / "alone"
    copied.mkdir()
    shutil.copy(run / "model.keras", copied / "model.keras")
    for words in (
        ["compare", run, tmp_path / "second", "--format=json"],
        ["export", run, f"--output={tmp_path / 'own.onnx'}", "--precision=int8", "--force"],
        ["evaluate", run, "--plots=false", "--calibrate"],
    ):
        assert main([str(word) for word in words]) == 0
        assert capsys.readouterr().err.count(CHANGED) == 1
    for words in (["compare", copied, run], ["export", copied]):
        assert main([str(word) for word in words]) == 2
        error = capsys.readouterr().err
        assert REFUSED in error and error.count("\n") == 1
    assert main(["compare", str(copied), str(run), "--data=photos"]) == 0


def test_python_takes_ones_own_changed_data_too(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    from kcv import evaluate

    assert evaluate(run / "model.keras", plots=False).metrics["n"] == 23
    assert caplog.text.count(CHANGED) == 1
