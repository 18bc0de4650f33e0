"""Names on the command line, and the file that each stands for."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from onnx_by_hand import network
from served_images import with_texts

from kcv.artifact import ArtifactInfo, weights_digest
from kcv.errors import ArtifactError, UsageError
from kcv.metrics.conformal import PredictionSets
from kcv.metrics.temperature import Calibration
from kcv.serving.place import Place, places

WEIGHTS = b"the numbers of a model"
SETS = PredictionSets(wanted_coverage=0.9, least=0.1, images=40)
DIGEST = hashlib.sha256(WEIGHTS).hexdigest()


def keras_file(path: Path, **changes: Any) -> Path:
    """Writes the parts of a model file that are read without Keras."""
    values: dict[str, Any] = {
        "model_name": "net", "class_names": ("a", "b", "c"), "image_size": 16, "resize": "squash",
        "precision": "float32", "parameters": {"total": 1}, "data_name": "photos", "data_fingerprint": "abc",
        "config": {}, "versions": {}, **changes,
    }  # fmt: skip
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("kcv.json", ArtifactInfo(**values).model_dump_json())
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", WEIGHTS)
    path.write_bytes(stream.getvalue())
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with a model and the ONNX file that was exported from it."""
    folder = tmp_path / "photos"
    folder.mkdir()
    keras_file(folder / "model.keras")
    (folder / "model.onnx").write_bytes(with_texts(network(), weights_sha256=DIGEST))
    return folder


def test_the_weights_have_a_digest_that_stays_when_a_file_is_described_again(tmp_path: Path) -> None:
    first = keras_file(tmp_path / "a.keras")
    again = keras_file(tmp_path / "b.keras", calibration=Calibration(temperature=2.0))
    assert weights_digest(first) == weights_digest(again) == DIGEST


def test_the_onnx_file_of_the_same_model_is_served(run: Path) -> None:
    assert Place("photos", run).file() == run / "model.onnx"
    assert Place("photos", run / "model.keras").file() == run / "model.onnx"
    assert Place("photos", run / "model.onnx").file() == run / "model.onnx"


@pytest.mark.parametrize(
    ("texts", "changes", "words"),
    [
        ({"weights_sha256": "0" * 64}, {}, "holds other weights; export it again"),
        ({"weights_sha256": ""}, {}, "does not say which weights it holds; export it again"),
        ({"precision": "int8"}, {}, "is int8; name the file to serve it"),
        ({"temperature": "2.0"}, {}, "describes another model; export it again"),
        ({}, {"calibration": Calibration(threshold=0.5)}, "describes another model"),
        ({}, {"calibration": Calibration(sets=SETS)}, "describes another model"),
        ({"prediction_sets": SETS.to_text()}, {}, "describes another model"),
        ({}, {"class_names": ("a", "c", "b")}, "describes another model"),
        ({}, {"resize": "crop"}, "describes another model"),
    ],
)
def test_another_onnx_file_is_not_served_and_the_reason_is_told(
    run: Path, told: Callable[[], str], texts: dict[str, str], changes: dict[str, Any], words: str
) -> None:
    (run / "model.onnx").write_bytes(with_texts(network(), **{"weights_sha256": DIGEST, **texts}))
    keras_file(run / "model.keras", **changes)
    assert Place("photos", run).file() == run / "model.keras"
    assert words in told()


def test_a_run_without_one_of_the_files_is_served_by_the_other(run: Path, told: Callable[[], str]) -> None:
    (run / "model.keras").rename(run / "other.keras")
    assert Place("photos", run).file() == run / "model.onnx"
    (run / "model.onnx").unlink()
    with pytest.raises(ArtifactError, match=r"photos: holds no model\.onnx and no model\.keras"):
        Place("photos", run).file()
    (run / "other.keras").rename(run / "model.keras")
    assert Place("photos", run).file() == run / "model.keras"
    assert f"`kcv export {run}` makes a faster file" in told()
    with pytest.raises(ArtifactError, match="no such model file"):
        Place("x", run / "none.keras").file()


def test_names_come_from_folders_files_or_the_user(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def name(given: str | Path) -> str:
        (place,) = places([given])
        return place.name

    assert name(run) == name(run / "model.onnx") == name(run / "model.keras") == "photos"
    assert name(run / "cats v2.onnx") == "cats-v2"
    assert name("dogs=some/where.onnx") == "dogs"
    assert name(run / "--.onnx") == "model"
    monkeypatch.chdir(run)
    assert name(".") == name("model.onnx") == "photos"
    os.rename(run / "model.onnx", run / "a=b.onnx")
    assert places(["a=b.onnx"]) == [Place("a-b", Path("a=b.onnx"))]
    assert places(["c=a=b.onnx"]) == [Place("c", Path("a=b.onnx"))]


def test_two_models_of_one_name_are_refused(run: Path) -> None:
    with pytest.raises(UsageError, match="have the same name; give one as NAME="):
        places([run, run / "model.onnx"])
    with pytest.raises(UsageError, match=r"serve needs MODEL\.\.\."):
        places([])


def test_models_in_mlflow_have_the_name_that_they_are_registered_under() -> None:
    assert places(["models:/cats and dogs@champion", "b=models:/a/1", "runs:/0123456789abcdef/model"]) == [
        Place("cats-and-dogs", "models:/cats and dogs@champion"),
        Place("b", "models:/a/1"),
        Place("run-01234567", "runs:/0123456789abcdef/model"),
    ]
    with pytest.raises(UsageError, match="have the same name; give one as NAME=models:/a/2"):
        places(["models:/a/1", "models:/a/2"])
    with pytest.raises(UsageError, match="allowed: models:/NAME/VERSION"):
        places(["models:/a"])


def test_a_model_in_mlflow_is_looked_up_each_time_it_is_loaded(
    run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (place,) = places(["models:/photos@champion"])
    assert place.candidates == ()
    found = {"models:/photos@champion": run / "model.keras"}
    monkeypatch.setattr("kcv.serving.place.model_file", lambda named, every: found[named] if every else None)
    assert place.file() == run / "model.onnx"
    found["models:/photos@champion"] = tmp_path / "other.onnx"
    assert place.file() == tmp_path / "other.onnx"
