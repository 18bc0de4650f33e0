"""The parity gate: what passes, and what does not ship."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import kcv.exporting as exporting
from kcv import cli, export, load_model
from kcv.errors import ParityError
from kcv.exporting.gate import Parity, compare
from kcv.exporting.samples import Samples, to_check
from kcv.onnx_model import OnnxModel

if TYPE_CHECKING:
    from kcv.exporting import Export
    from kcv.training import Run

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
        ({"agreement": 0.9}, "only 90.00% of 10 pictures get the same class"),
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
        compare(model.keras_model, None, OnnxModel(tmp_path / "wrong.onnx", device="cpu"), samples).check()


def test_ties_are_no_disagreement(exported: Export, trained_run: Run) -> None:
    model = load_model(trained_run.model_path)
    pixels = np.zeros((3, model.image_size, model.image_size, 3), np.uint8)
    parity = compare(model.keras_model, None, OnnxModel(exported.path, device="cpu"), Samples("black", pixels, None))
    assert (parity.agreement, parity.keras_accuracy, parity.onnx_accuracy) == (1.0, None, None)


def test_a_file_that_fails_is_not_left_and_the_exit_code_is_1(
    trained_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write = exporting.write_graph

    def wrong(model: object, info: object, path: Path, *, opset: int) -> None:
        write(model, info, path, opset=opset)
        _damage(path, path, 0.5)

    monkeypatch.setattr(exporting, "write_graph", wrong)
    with pytest.raises(ParityError):
        export(trained_run.model_path, tmp_path / "m.onnx")
    assert cli.main(["export", str(trained_run.model_path), f"--output={tmp_path / 'm.onnx'}"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("kcv: error: the exported file does not say what the model says, so it is not kept: logits ")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def _damage(source: Path, target: Path, by: float) -> None:
    """Adds to one weight of the logits."""
    graph = onnx.load(source)
    (kernel,) = [tensor for tensor in graph.graph.initializer if tensor.name == "logits/kernel"]
    values = numpy_helper.to_array(kernel).copy()
    values.flat[0] += by
    kernel.CopyFrom(numpy_helper.from_array(values, kernel.name))
    onnx.save(graph, target)
