"""`kcv models`: a table for people, rows for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kcv.cli import main
from kcv.config import MODEL_NAMES
from kcv.models import imagenet, registry


def test_the_table_has_a_line_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1 : len(MODEL_NAMES) + 1]] == list(MODEL_NAMES)
    (resnet,) = (line for line in lines if line.split()[:1] == ["resnet50"])
    assert resnet.split()[1:5] == ["23.6M", "4.09", "224", "32"]
    assert max(map(len, lines)) <= 110


def test_one_network_can_be_picked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--model=resnet18", "--format=json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["name"], row["multiply_adds"], "measured" in row) == ("resnet18", 1_813_561_344, False)


@pytest.mark.full
def test_speeds_are_measured_here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from kcv.benchmark import speed

    monkeypatch.setattr(speed, "_SECONDS", 0.0)
    assert main(["models", "--measure", "--model=custom_cnn", "--image_size=16"]) == 0
    header, line, *_ = capsys.readouterr().out.splitlines()
    assert header.split()[-2:] == ["trained/s", "predicted/s"]
    name, _, px, batch, _, trained, predicted = line.split()
    assert (name, px, batch) == ("custom_cnn", "16", "16")
    assert float(trained.replace(",", "")) > 0 and float(predicted.replace(",", "")) > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model=resnet19"], "Did you mean 'resnet18'?"),
        (["--image_size=64"], "--image_size without --measure"),
        (["--download"], "--download without --model"),
        (["--download", "--model=custom_cnn"], "custom_cnn has no ImageNet weights."),
        (["--measure", "--image_size=24", "--model=resnet18"], "resnet18 takes images of 32 px or more, not 24"),
    ],
)
def test_bad_input_is_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err and captured.err.count("\n") == 1


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


def test_weights_are_downloaded_for_later_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def download(url: str, path: Path, *, checksum: str, open_bar: object) -> None:
        asked.append((url, checksum))
        path.touch()

    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delenv("KCV_WEIGHTS_DIR", raising=False)
    monkeypatch.setattr(imagenet, "download", download)
    assert main(["models", "--model=efficientnet_b0", "--download", "--format=json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    file = registry.get("efficientnet_b0").imagenet
    assert file is not None and file.url is not None
    assert asked == [(file.url + file.name, file.checksum)]
    assert row["imagenet_weights"] == str(tmp_path / "models" / file.name)
