"""Mistakes that people make: each ends in exit code 2 and one clear line, without a traceback or a training."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kcv.cli import main


def image(path: Path, shade: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((16, 16, 3), shade, np.uint8)).save(path)


def folder(classes: dict[str, int], root: str = "images") -> Callable[[], None]:
    """Returns what makes a folder of class folders with so many images each."""

    def make() -> None:
        Path(root).mkdir(parents=True)
        for name, count in classes.items():
            (Path(root) / name).mkdir()
            for i in range(count):
                image(Path(root) / name / f"{i}.png", i)

    return make


def file(name: str, content: bytes) -> Callable[[], None]:
    return lambda: void(Path(name).write_bytes(content))


def void(_: object) -> None:
    """Drops a value."""


def together(*makers: Callable[[], None]) -> Callable[[], None]:
    return lambda: void([maker() for maker in makers])


def archive(members: dict[str, str], name: str = "model.keras") -> Callable[[], None]:
    def make() -> None:
        with zipfile.ZipFile(name, "w") as stream:
            for member, text in members.items():
                stream.writestr(member, text)

    return make


def nothing() -> None:
    """Makes nothing."""


INFO = json.dumps({"format_version": 99})

# name: (what lies in the folder, the words typed, parts of the line that must be there)
CASES: dict[str, tuple[Callable[[], None], list[str], tuple[str, ...]]] = {
    "unknown verb": (nothing, ["trian"], ("trian", "'train'")),
    "unknown flag": (nothing, ["train", "--no_such_flag=1"], ("--no_such_flag", "--help")),
    "flag with a slip": (nothing, ["train", "--epoch=1"], ("--epoch ", "--epochs")),
    "flag without a value": (nothing, ["train", "--lr"], ("--lr", "VALUE")),
    "flag given twice": (nothing, ["train", "--lr=1", "--optim.lr=2"], ("optim.lr", "twice")),
    "one word too many": (nothing, ["train", "a.yaml", "b.yaml"], ("b.yaml",)),
    "text for a number": (nothing, ["train", "--lr=abc"], ("optim.lr", "'abc'", "a number")),
    "a part for a whole number": (nothing, ["train", "--epochs=1.5"], ("train.epochs", "1.5", "whole number")),
    "out of range": (nothing, ["train", "--data.val_fraction=1.5"], ("data.val_fraction", "1.5", "0.5")),
    "negative": (nothing, ["train", "--seed=-1"], ("seed", "-1", "from 0")),
    "not a number": (nothing, ["train", "--lr=.nan"], ("optim.lr", "nan")),
    "more folds than a fold can name": (nothing, ["train", "--folds=10000"], ("--folds", "'10000'", "from 2 to 9999")),
    "more folds of trials": (nothing, ["tune", "--folds=10000"], ("--folds", "'10000'", "from 2 to 9999")),
    "unknown model": (nothing, ["train", "--model=resnet9000"], ("model.name", "'resnet9000'", "resnet50")),
    "unknown schedule": (nothing, ["train", "--optim.schedule=cos"], ("'cos'", "cosine")),
    "unknown precision": (nothing, ["train", "--precision=fp16"], ("'fp16'", "mixed_float16")),
    "unknown device": (nothing, ["train", "--device=gpu"], ("'gpu'", "cuda")),
    "warm-up longer than the run": (
        nothing,
        ["train", "--epochs=2", "--optim.warmup_epochs=3"],
        ("optim.warmup_epochs", "train.epochs"),
    ),
    "a name that is a path": (nothing, ["train", "--name=../x"], ("name", "'../x'")),
    "missing configuration": (nothing, ["train", "none.yaml"], ("none.yaml", "no such file")),
    "a directory as configuration": (lambda: Path("d").mkdir(), ["train", "d"], ("d: is a directory",)),
    "empty configuration": (file("c.yaml", b""), ["train", "c.yaml"], ("c.yaml", "empty")),
    "unreadable YAML": (file("c.yaml", b"a: ["), ["train", "c.yaml"], ("c.yaml", "line 1")),
    "binary configuration": (file("c.yaml", b"\x89PNG\r\n\x00"), ["train", "c.yaml"], ("c.yaml", "not text")),
    "duplicate key": (file("c.yaml", b"seed: 1\nseed: 2\n"), ["train", "c.yaml"], ("line 2", "'seed'")),
    "unknown key": (file("c.yaml", b"optim: {lrr: 1}\n"), ["train", "c.yaml"], ("optim.lrr", "'optim.lr'")),
    "unusable tracking store": (nothing, ["train", "--tracking=runs"], ("tracking.uri", "'runs'", "none")),
    "missing data": (nothing, ["train", "--data=none"], ("none",)),
    "slip in a data name": (nothing, ["train", "--data=cifar"], ("'cifar'", "cifar10")),
    "empty folder": (folder({}), ["train", "--data=images"], ("images",)),
    "folder without classes": (lambda: image(Path("images/a.png")), ["train", "--data=images"], ("images",)),
    "one class only": (folder({"cat": 9}), ["train", "--data=images"], ("images", "cat")),
    "a class with one image": (folder({"cat": 9, "dog": 1}), ["train", "--data=images"], ("dog",)),
    "one class beside an empty one": (folder({"cat": 9, "eel": 0}), ["train", "--data=images"], ("cat",)),
    "a broken image": (
        together(folder({"cat": 9, "dog": 9}), lambda: void(Path("images/cat/0.png").write_bytes(b"\x89PNG"))),
        ["train", "--data=images"],
        ("0.png",),
    ),
    "a test class that training lacks": (
        together(folder({"cat": 9, "dog": 9}, "images/train"), folder({"cat": 9, "eel": 9}, "images/test")),
        ["train", "--data=images"],
        ("eel",),
    ),
    "data that is no image": (file("data.csv", b"a,b\n"), ["train", "--data=data.csv"], ("data.csv",)),
    "broken Parquet": (file("data.parquet", b"PAR1 no"), ["train", "--data=data.parquet"], ("data.parquet",)),
    "output folder that is a file": (
        file("taken", b""),
        ["train", "--data=digits", "--output_dir=taken"],
        ("taken",),
    ),
    "missing model file": (nothing, ["info", "none.keras"], ("none.keras",)),
    "a directory as model file": (lambda: Path("d").mkdir(), ["info", "d"], ("d",)),
    "no archive": (file("model.keras", b"not a zip"), ["info", "model.keras"], ("model.keras",)),
    "empty model file": (file("model.keras", b""), ["info", "model.keras"], ("model.keras",)),
    "a model without metadata": (archive({"config.json": "{}"}), ["info", "model.keras"], ("model.keras", "kcv.json")),
    "metadata that is not JSON": (archive({"kcv.json": "{"}), ["info", "model.keras"], ("model.keras",)),
    "metadata of a later kcv": (archive({"kcv.json": INFO}), ["info", "model.keras"], ("model.keras",)),
    "unknown output format": (nothing, ["info", "m", "--format=xml"], ("--format", "'xml'", "json")),
    "predict without a model": (nothing, ["predict", "a.png"], ("--model",)),
    "predict without an image": (nothing, ["predict", "--model=m.keras"], ("PATH",)),
}


@pytest.mark.parametrize("name", CASES)
def test_exit_code_2_and_one_clear_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make, words, parts = CASES[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KCV_DATA_DIR", raising=False)
    make()
    if words[0] == "train" and not any(word.startswith("--tracking") for word in words):
        words = [*words, "--tracking=none"]
    assert main(words) == 2
    out, err = capsys.readouterr()
    complaints = [line for line in err.splitlines() if line.startswith("kcv: error: ")]
    assert out == ""
    assert len(complaints) == 1, err
    assert err.endswith(complaints[0] + "\n")
    assert "Traceback" not in err
    for part in parts:
        assert part in complaints[0]
    assert not Path("runs").exists()


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="whoever may read everything finds nothing unreadable")
def test_a_file_without_permission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text("seed: 1\n")
    Path("c.yaml").chmod(0)
    assert main(["train", "c.yaml"]) == 2
    assert capsys.readouterr().err == "kcv: error: c.yaml: cannot be read: Permission denied.\n"
