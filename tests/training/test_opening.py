"""A run that begins or goes on: what its folder may look like then."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from kcv.cli import main
from kcv.errors import DataError
from kcv.tasks.train import train
from kcv.training.run_folder import Run
from kcv.training.run_setup import _note_resumption


def test_each_resumption_is_noted(tmp_path: Path) -> None:
    path = tmp_path / "environment.json"
    path.write_text('{"kcv": "1.0"}')
    for count in (1, 2):
        _note_resumption(path, {"kcv": "2.0"})
        values = json.loads(path.read_text())
        assert (values["kcv"], len(values["resumed"])) == ("1.0", count)


@pytest.mark.parametrize("content", [None, b"", b"{", b"[1]", b"\xff", b"[" * 99_999, b'{"kcv": 1e999}'])
def test_a_damaged_environment_is_written_again(
    content: bytes | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "environment.json"
    if content is not None:
        path.write_bytes(content)
    _note_resumption(path, {"kcv": "2.0"})
    assert json.loads(path.read_text())["kcv"] == "2.0"
    assert "is missing or damaged; it is written again" in caplog.text


def test_odd_resumptions_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "environment.json"
    path.write_text('{"kcv": "1.0", "resumed": {"a": 1}}')
    _note_resumption(path, {})
    assert len(json.loads(path.read_text())["resumed"]) == 1


def test_a_finished_run_is_not_trained_on(trained_run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", f"--resume={trained_run.directory}"]
    assert main([*words, "--epochs=9"]) == 2
    said = capsys.readouterr().err
    assert "train.epochs: received 9, but the run has ended with 4" in said
    assert f"--model.weights={trained_run.model_path}" in said
    assert main([*words, "--epochs=4", "--data.workers=3"]) == 0  # what changes nothing may change


@pytest.mark.parametrize(
    ("name", "content"),
    [("metrics.json", "[]"), ("metrics.json", "{"), ("metrics.json", "{}"),
     ("environment.json", "{"), ("history.csv", "epoch,loss\n1,x\n"),
     ("history.csv", "epoch,loss\n1,2\n")],
)  # fmt: skip
def test_a_damaged_file_of_a_finished_run_is_one_line(
    name: str, content: str, trained_run: Run, tmp_path: Path
) -> None:
    shutil.copytree(trained_run.directory, tmp_path / "run")
    (tmp_path / "run" / name).write_text(content)
    with pytest.raises(DataError, match=name) as caught:
        train(resume=tmp_path / "run")
    assert "\n" not in str(caught.value)
