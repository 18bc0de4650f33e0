"""Several models as one ONNX file: its probabilities are the mean of theirs, to rounding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kcv.errors import ExportError, ParityError
from kcv.exporting import ensemble, graph
from kcv.exporting.samples import to_check
from kcv.inference.keras_model import LoadedModel
from kcv.inference.onnx_model import OnnxModel
from kcv.inference.opening import load
from kcv.metrics.temperature import Calibration
from kcv.native.precision import in_float32
from kcv.training.run_folder import Run

pytestmark = pytest.mark.usefixtures("kept_graphs")  # a trace takes seconds


@pytest.fixture(scope="module")
def models(trained_run: Run) -> list[LoadedModel]:
    """The run's model, and the same with other weights, another temperature and a threshold."""
    first, second = (load(trained_run.model_path, device="cpu") for _ in range(2))
    rng = np.random.default_rng(0)
    weights = second.keras_model.get_weights()
    second.keras_model.set_weights([one + rng.normal(0, 0.02, one.shape).astype(one.dtype) for one in weights])
    info = second.info.model_copy(update={"calibration": Calibration(temperature=2.5, threshold=0.7)})
    return [first, LoadedModel(second.path, info, second.keras_model)]


@pytest.mark.full
def test_the_file_answers_with_the_mean_of_the_models_and_says_what_they_are(
    models: list[LoadedModel], tmp_path: Path
) -> None:
    samples = to_check(models[0], None)
    parity = ensemble.write_ensemble(models, tmp_path / "both.onnx", samples)
    assert parity.pictures == len(samples.pixels)
    made = OnnxModel(tmp_path / "both.onnx", device="cpu")
    wanted = np.mean([model.predict(samples.pixels) for model in models], axis=0)
    logits, probabilities = made.run(samples.pixels)
    assert probabilities == pytest.approx(wanted, abs=1e-5)
    assert np.exp(logits) == pytest.approx(probabilities, abs=1e-6)
    assert not np.allclose(probabilities, models[0].predict(samples.pixels), atol=1e-3)
    info = made.info
    assert info.class_names == models[0].class_names
    assert (info.image_size, info.resize) == (16, models[0].resize)
    assert (info.threshold, info.temperature, info.model_name) == (0.7, 1.0, "custom_cnn x 2")


def test_a_file_that_says_something_else_is_not_kept(
    models: list[LoadedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ensemble._Together, "_mean", lambda self, logits: logits[0])
    with pytest.raises(ParityError, match="logits differ"):
        ensemble.write_ensemble(models, tmp_path / "both.onnx", to_check(models[0], None))
    assert list(tmp_path.glob("*.onnx")) == []


def test_models_that_are_together_larger_than_a_file_can_be_make_no_ensemble(
    models: list[LoadedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = models[0]
    graph.write_graph(in_float32(first.keras_model), ensemble._info(models), tmp_path / "one")
    monkeypatch.setattr(graph, "MOST_BYTES", (tmp_path / "one").stat().st_size * 3 // 2)
    with pytest.raises(ExportError, match=r"^the ensemble of 2 models cannot be exported: its graph has more than "):
        ensemble.write_ensemble(models, tmp_path / "both.onnx", to_check(first, None))
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["one"]


def test_models_of_other_classes_make_no_ensemble(models: list[LoadedModel], tmp_path: Path) -> None:
    first, second = models
    other = LoadedModel(
        second.path, second.info.model_copy(update={"class_names": ("a", "b", "c")}), second.keras_model
    )
    with pytest.raises(ExportError, match="different classes"):
        ensemble.write_ensemble([first, other], tmp_path / "both.onnx", to_check(first, None))
