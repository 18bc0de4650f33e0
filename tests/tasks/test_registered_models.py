"""A model in MLflow in place of a file, in each verb; and what MLflow's own tools make of a model that kcv logged."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import kcv
from kcv.cli import main
from kcv.errors import ImageError, UsageError
from kcv.exporting.mlflow_folder import mlflow_files
from kcv.tracking import MlflowTracker

if TYPE_CHECKING:
    from kcv.config import Config
    from kcv.tasks.export import Export
    from kcv.training.run_folder import Run

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's own tools warn about their dependencies


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, trained_run: Run, exported: Export) -> str:
    """The URI of a database with the trained model: version 1, the champion; and as an ONNX file too: version 2."""
    folder = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{folder}/mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KCV_CACHE_DIR", str(folder / "cache"))
        files = mlflow_files(trained_run.model_path)
        for more, alias in (({}, "champion"), ({"data/model.onnx": exported.path}, "fast")):
            tracker = MlflowTracker(uri, "kcv")
            tracker.start("run", {}, {})
            tracker.log_model({**files, **more}, register="toys", alias=alias)
            tracker.finish()
    return uri


@pytest.fixture(autouse=True)
def _named(store: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.chdir(tmp_path)


@pytest.mark.full
def test_verbs_take_a_registered_model_and_leave_the_cache_alone(
    trained_run: Run, images: Path, tmp_path: Path, kept_graphs: None
) -> None:
    champion, image = "models:/toys@champion", images / "test" / "left" / "000.png"
    assert list(kcv.predict(image, champion)) == list(kcv.predict(image, trained_run.model_path))
    assert kcv.load_model(champion).class_names == ("centre", "left", "top")
    figures = kcv.evaluate(champion, str(images), plots=False)
    assert figures.metrics == trained_run.metrics
    assert figures.directory == Path("toys-1/evaluation-images-test")
    (row,) = kcv.explain(image, champion)
    assert row["overlay"].startswith("toys-1/explanations")
    assert kcv.export(champion, samples=str(image)).path == Path("toys-1/model.onnx")
    rows = kcv.compare([champion, trained_run.directory], str(images)).rows
    assert [row["accuracy"] for row in rows] == [trained_run.metrics["accuracy"]] * 2
    assert rows[0]["name"] == "toys-1"
    with pytest.raises(
        UsageError, match="--calibrate changes a model file, and those in MLflow and the Hub stay as they are"
    ):
        kcv.evaluate(champion, str(images), calibrate=True)
    in_cache = {path.name for path in (tmp_path / "cache" / "models").rglob("*") if path.is_file()}
    assert in_cache == {"model.keras"}


@pytest.mark.full
def test_the_command_line_takes_them_and_tells_what_is_missing(
    capsys: pytest.CaptureFixture[str], images: Path
) -> None:
    assert main(["info", "models:/toys@fast", "--format=json"]) == 0
    assert json.loads(capsys.readouterr().out)["class_names"] == ["centre", "left", "top"]
    words = {
        "models:/toys@none": "toys has no alias 'none'; it has champion, fast.",
        "models:/toys/7": "toys has no version 7; it has versions up to 2",
        "models:/toy/1": "no model 'toy' is registered there; registered: toys. Did you mean 'toys'?",
        "models:/toys/Production": "'Production' is no version; allowed: a number, latest, or an alias after an @.",
    }
    for model, told in words.items():
        for command in (["info", model], ["evaluate", model], ["export", model], ["serve", model, "--port=0"],
                        ["predict", str(images / "test" / "left"), f"--model={model}"]):  # fmt: skip
            assert main(command) == 2
            said = capsys.readouterr()
            assert said.out == ""
            assert told in said.err
            assert len(said.err.strip().splitlines()) == 1
    assert os.listdir() == ["cache"]


@pytest.mark.full
def test_training_starts_from_a_registered_model_and_registers_its_own(
    configure: Callable[..., Config], store: str
) -> None:
    run = kcv.train(
        configure(
            tracking=store,
            epochs=1,
            **{
                "model.weights": "models:/toys@champion", "model.width": 0.5, "tracking.register": "next",
                "tracking.alias": "champion",
            },
        )
    )  # fmt: skip
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=store)
    version = client.get_model_version_by_alias("next", "champion")
    found = kcv.load_model("models:/next@champion")
    assert found.info.metrics == run.metrics
    names = sorted(file.path for file in client.list_artifacts(version.run_id, "model"))
    assert names == [
        "model/MLmodel", "model/data", "model/input_example.json", "model/python_env.yaml", "model/requirements.txt",
        "model/serving_input_example.json",
    ]  # fmt: skip
    assert "model.keras" in {file.path for file in client.list_artifacts(version.run_id)}  # as in earlier releases


@pytest.mark.full
def test_mlflows_own_tools_open_and_run_a_logged_model(trained_run: Run, images: Path) -> None:
    import mlflow
    import pandas
    from mlflow.models.utils import convert_input_example_to_serving_input
    from mlflow.pyfunc.scoring_server import _split_data_and_params, infer_and_parse_data

    files = sorted((images / "test").rglob("*.png"))[:5]
    contents = [path.read_bytes() for path in files]
    expected = list(kcv.predict(files, trained_run.model_path))
    model = mlflow.pyfunc.load_model("models:/toys@champion")
    frame = pandas.DataFrame({"any": contents})
    for given in (frame, contents, pandas.DataFrame({"any": [base64.b64encode(each).decode() for each in contents]})):
        rows = model.predict(given).to_dict("records")
        assert [row["label"] for row in rows] == [row["label"] for row in expected]
        for row, wanted in zip(rows, expected, strict=True):
            assert row["confidence"] == pytest.approx(wanted["confidence"], abs=1e-6)
            assert row["probabilities"] == pytest.approx(wanted["probabilities"], abs=1e-6)
            assert row["likeliest"] == row["label"]
    assert model.predict(contents[0]).label[0] == expected[0]["label"]
    with pytest.raises(ImageError, match="image 2: "):
        model.predict([contents[0], b"no image"])

    signature = model.metadata.signature
    assert str(signature.inputs) == "[binary (required)]"
    assert [column.name for column in signature.outputs] == [
        "label", "likeliest", "confidence", "probabilities", "prediction_set",
    ]  # fmt: skip
    assert model.predict(model.input_example).shape == (1, 4)
    served = convert_input_example_to_serving_input(frame)  # what a client sends to `mlflow models serve`
    data, _ = _split_data_and_params(served)
    tensors = {"inputs": [base64.b64encode(each).decode() for each in contents]}
    for given in (data, tensors):
        rows = model.predict(infer_and_parse_data(given, signature.inputs))
        assert list(rows.label) == [row["label"] for row in expected]
    with pytest.raises(ImageError, match="image 1: is text, but not in base64"):
        model.predict("no image at all")

    import mlflow.keras

    plain = mlflow.keras.load_model("models:/toys/1")
    pixels = np.zeros((2, 16, 16, 3), np.uint8)
    assert np.allclose(
        plain.predict(pixels, verbose=0), kcv.load_model(trained_run.model_path).keras_model(pixels).detach()
    )
