"""`kcv models`: a table for people, rows for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kcv.cli import main
from kcv.config import MODEL_NAMES


def test_the_table_has_a_line_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:5]] == list(MODEL_NAMES)
    assert "23.6M" in lines[2]
    assert max(map(len, lines)) <= 110


def test_rows_name_the_files_that_are_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "none"))
    monkeypatch.setenv("KCV_WEIGHTS_DIR", str(tmp_path))
    (tmp_path / "efficientnetb0_notop.h5").touch()
    assert main(["models", "--format=json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["efficientnet_b0"]["imagenet_weights"] == str(tmp_path / "efficientnetb0_notop.h5")
    assert rows["resnet50"]["imagenet_weights"] is None
    assert rows["custom_cnn"]["image_size"] is None
