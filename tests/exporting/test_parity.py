"""The parity gate: what passes, and what does not ship."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from kcv import export, load_model
from kcv.cli import main
from kcv.errors import ParityError
from kcv.exporting import graph
from kcv.exporting.parity import Parity, compare
from kcv.exporting.samples import Samples, to_check
from kcv.inference.onnx_model import OnnxModel

if TYPE_CHECKING:
    from kcv.tasks.export import Export
    from kcv.training.run_folder import Run

pytestmark = pytest.mark.usefixtures("kept_graphs")

GOOD = Parity(10, 1e-6, 1e-4, 1.0, 0.9, 0.9)


def test_figures_of_a_good_file(exported: Export, trained_run: Run) -> None:
    parity = exported.parity
    assert parity.pictures == 24
    assert 0 < parity.max_difference <= 1e-4 * max(1.0, parity.tolerance / 1e-4)
    assert parity.agreement == 1.0
    assert parity.keras_accuracy == parity.onnx_accuracy
    assert parity.onnx_accuracy is not None and parity.onnx_accuracy > 0.9


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"max_difference": 2e-4}, "logits differ by up to 0.0002, allowed 0.0001"),
        ({"max_difference": float("nan")}, "logits differ by up to nan"),
        ({"max_probability_difference": 2e-5}, "probabilities differ by up to 2e-05 from those of the logits"),
        ({"max_probability_difference": float("nan")}, "probabilities differ by up to nan"),
        ({"agreement": 0.9}, "only 90.00% of 10 images get the same class"),
        ({"onnx_accuracy": 0.89}, "accuracy falls from 90.00% to 89.00%"),
    ],
)
def test_each_figure_can_stop_a_file(change: dict[str, float], words: str) -> None:
    GOOD.check()
    with pytest.raises(ParityError, match=words):
        replace(GOOD, **change).check()


@pytest.mark.parametrize("size_of_error", [1e-2, float("nan")])
def test_a_file_with_one_wrong_weight_is_found_out(
    exported: Export, trained_run: Run, tmp_path: Path, size_of_error: float
) -> None:
    model = load_model(trained_run.model_path)
    _damage(exported.path, tmp_path / "wrong.onnx", size_of_error)
    samples = to_check(model, None)
    with pytest.raises(ParityError, match="logits differ"):
        compare(model.keras_model, OnnxModel(tmp_path / "wrong.onnx", device="cpu"), samples).check()


def test_ties_are_no_disagreement(exported: Export, trained_run: Run) -> None:
    model = load_model(trained_run.model_path)
    pixels = np.zeros((3, model.image_size, model.image_size, 3), np.uint8)
    file = OnnxModel(exported.path, device="cpu")
    parity = compare(model.keras_model, file, Samples("black", pixels, None), model.calibration)
    assert (parity.agreement, parity.keras_accuracy, parity.onnx_accuracy) == (1.0, None, None)
    # Two classes with the same weights get logits that only rounding tells apart: whichever the file takes is right.
    for variable in model.keras_model.layers[-1].weights:
        values = variable.numpy()
        values[..., 1] = values[..., 0] + 0
        values[..., 2] = -100.0 if values.ndim == 1 else 0.0
        variable.assign(values)

    class Turned:
        """Answers as the model does, but the other of two equal classes."""

        def compute(self, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            logits = np.asarray(model.keras_model(batch, training=False).detach(), np.float32)
            logits[:, 1] += np.float32(1e-5)
            return logits, model.calibration.probabilities(logits)

        def logits(self, batch: np.ndarray) -> np.ndarray:
            return self.compute(batch)[0]

    tied = compare(model.keras_model, Turned(), Samples("black", pixels, None), model.calibration)
    assert tied.agreement == 1.0
    tied.check()


def test_a_wrong_softmax_is_found_out(exported: Export, trained_run: Run, tmp_path: Path) -> None:
    model = load_model(trained_run.model_path)
    graph = onnx.load(exported.path)
    (softmax,) = [node for node in graph.graph.node if node.op_type == "Softmax"]
    scale = numpy_helper.from_array(np.float32(-5), "wrong")
    graph.graph.initializer.append(scale)
    turned = onnx.helper.make_node("Mul", [softmax.input[0], "wrong"], ["turned"])
    graph.graph.node.insert(list(graph.graph.node).index(softmax), turned)
    softmax.input[0] = "turned"
    onnx.save(graph, tmp_path / "wrong.onnx")
    wrong = OnnxModel(tmp_path / "wrong.onnx", device="cpu")
    parity = compare(model.keras_model, wrong, to_check(model, None), model.calibration)
    assert parity.max_difference <= parity.tolerance
    with pytest.raises(ParityError, match="probabilities differ"):
        parity.check()


def test_a_model_of_nans_has_no_parity_with_anything(exported: Export, trained_run: Run) -> None:
    model = load_model(trained_run.model_path)
    for variable in model.keras_model.layers[-1].weights:
        variable.assign(np.full(variable.shape, np.nan, np.float32))
    file = OnnxModel(exported.path, device="cpu")
    parity = compare(model.keras_model, file, to_check(model, None), model.calibration)
    with pytest.raises(ParityError, match="logits differ by up to inf"):
        parity.check()


def test_a_file_that_fails_is_not_left_and_the_exit_code_is_1(
    trained_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write = graph.write_graph

    def wrong(model: object, info: object, path: Path, **options: object) -> None:
        write(model, info, path, **options)
        _damage(path, path, 0.5)

    monkeypatch.setattr(graph, "write_graph", wrong)
    (tmp_path / "m.onnx").write_bytes(b"of before")
    with pytest.raises(ParityError):
        export(trained_run.model_path, tmp_path / "m.onnx")
    assert main(["export", str(trained_run.model_path), f"--output={tmp_path / 'm.onnx'}"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("kcv: error: the exported file does not say what the model says, so it is not kept: logits ")
    assert err.count("\n") == 1
    assert "(in all: logits " in err and "accuracy Keras " in err
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("m.onnx", b"of before")]


def _damage(source: Path, target: Path, by: float) -> None:
    """Adds to one weight of the logits."""
    graph = onnx.load(source)
    (kernel,) = [tensor for tensor in graph.graph.initializer if tensor.name == "logits/kernel"]
    values = numpy_helper.to_array(kernel).copy()
    values.flat[0] += by
    kernel.CopyFrom(numpy_helper.from_array(values, kernel.name))
    onnx.save(graph, target)
