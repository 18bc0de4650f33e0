"""Comparing runs: the same images for all, and what cannot be compared."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from kcv import artifact, compare
from kcv.cli import main
from kcv.cli.render.compare import markdown_of
from kcv.errors import ArtifactError, DataError, UsageError
from kcv.inference import opening
from kcv.tasks.compare import Comparison

if TYPE_CHECKING:
    from kcv.training.run_folder import Run


@pytest.fixture
def run(trained_run: Run, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("kcv.tasks.compare._TURNS", 2)  # of timing, which no test looks at
    return trained_run.directory


def shuffled(run: Path, folder: Path) -> Path:
    """A copy of a run whose last layer's weights are in another order, and its classes, too."""
    folder.mkdir()
    loaded = opening.load(run / "model.keras")
    for variable in loaded.keras_model.layers[-1].weights:
        variable.assign(np.random.default_rng(0).permutation(variable.numpy().ravel()).reshape(variable.shape))
    info = loaded.info.model_copy(update={"class_names": tuple(reversed(loaded.class_names))})
    return artifact.save(folder / "model.keras", loaded.keras_model, info)


@pytest.mark.full
def test_a_copy_does_not_differ_and_another_model_does(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run, tmp_path / "copy")
    shuffled(run, tmp_path / "other")
    runs = [str(run), str(tmp_path / "copy"), str(tmp_path / "other")]
    found = compare(runs, output=tmp_path / "out")
    metrics = json.loads((run / "metrics.json").read_text())
    first, copy, other = found.rows
    assert first["accuracy"] == copy["accuracy"] == metrics["accuracy"]
    assert [first["accuracy_low"], first["accuracy_high"]] == metrics["accuracy_ci95"]
    assert first["minutes"] == copy["minutes"] > 0
    assert other["minutes"] is None
    assert all(row["latency_ms"] > 0 and row["bytes"] > 0 for row in found.rows)
    same, different, _ = found.pairs
    assert (same.p_value, same.difference) == (1.0, 0.0)
    assert different.p_value < 0.05
    assert found.warnings == []
    assert json.loads((tmp_path / "out" / "comparison.json").read_text()) == found.to_dict()
    rows = list(csv.DictReader((tmp_path / "out" / "comparison.csv").read_text().splitlines()))
    assert [row["name"] for row in rows] == [row["name"] for row in found.rows]
    assert (tmp_path / "out" / "curves.png").stat().st_size > 10_000
    assert (tmp_path / "out" / "curves.svg").exists()
    capsys.readouterr()
    assert main(["compare", *runs]) == 0
    out = capsys.readouterr().out
    assert "do not differ beyond chance" in out
    assert "is better than other" in out


def test_classes_are_matched_by_name(run: Path, tmp_path: Path) -> None:
    # The same network with its classes, and so its last weights, the other way round.
    loaded = opening.load(run / "model.keras")
    for variable in loaded.keras_model.layers[-1].weights:
        variable.assign(variable.numpy()[..., ::-1].copy())
    info = loaded.info.model_copy(update={"class_names": tuple(reversed(loaded.class_names))})
    artifact.save(tmp_path / "turned.keras", loaded.keras_model, info)
    (pair,) = compare([run, tmp_path / "turned.keras"]).pairs
    assert (pair.only_first, pair.only_second) == (0, 0)


def test_what_may_be_unfair_is_said(run: Path, tmp_path: Path) -> None:
    for name, changes in (("seed", {"split_seed": 7}), ("data", {})):
        shutil.copytree(run, tmp_path / name)
        info = artifact.read_info(run / "model.keras")
        config = {**info.config, "data": {**info.config["data"], **changes}}
        fingerprint = "0" * 64 if name == "data" else info.data_fingerprint
        update = {"config": config, "data_fingerprint": fingerprint}
        artifact.describe_again(tmp_path / name / "model.keras", info.model_copy(update=update))
    seed, data = compare([run, tmp_path / "seed", tmp_path / "data"]).warnings
    assert "seed was trained with another data.split_seed than" in seed
    assert "data was trained on other data than" in data


def test_what_cannot_be_compared_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="two or more"):
        compare([run])
    (tmp_path / "m.onnx").write_bytes(b"")
    with pytest.raises(ArtifactError, match="is an ONNX file"):
        compare([run, tmp_path / "m.onnx"])
    shutil.copy(run / "model.keras", tmp_path / "dogs.keras")
    info = artifact.read_info(run / "model.keras")
    names = ("dog", *info.class_names[1:])
    artifact.describe_again(tmp_path / "dogs.keras", info.model_copy(update={"class_names": names}))
    with pytest.raises(DataError, match="do not know the same classes; only one of them knows: centre, dog"):
        compare([run, tmp_path / "dogs.keras"], output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_comparison_as_markdown_holds_the_commands_and_shows_names_as_they_are() -> None:
    row = {
        "name": "a|b", "model": "custom_cnn", "accuracy": 0.915, "accuracy_low": 0.9, "accuracy_high": 0.93,
        "macro_f1": 0.91, "parameters": 3_155_114, "bytes": 12_700_000, "latency_ms": 1.25, "minutes": 17.7,
        "trained_parameters": 3_151_498, "ece": 0.0123, "images_per_second": 925.4, "command": "kcv train a|b.yaml",
    }  # fmt: skip
    unknown = {**row, "name": "other", "minutes": None, "images_per_second": None, "command": None}
    text = markdown_of(Comparison("100 test images of *digits*", [row, unknown], [], ["not fair"]))
    header, rule, first, second, *rest = text.splitlines()
    assert len({line.replace("\\|", "").count("|") for line in (header, rule, first, second)}) == 1
    assert "a\\|b" in first and "`kcv train a\\|b.yaml`" in first
    assert "91.50% (90.00% to 93.00%)" in first and "3.16M (3,151,498)" in first and "| 925 |" in first
    assert second.count("| - |") >= 1
    assert "On 100 test images of \\*digits\\*" in text and "- not fair" in rest
