"""The whole of `export`: the file, int8 and when it is refused, and what the user gets wrong."""

from __future__ import annotations

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from PIL import Image

from kcv import OnnxModel, export, load_model
from kcv.cli import main
from kcv.cli.specification import find_verb
from kcv.errors import DataError, OutputError, UsageError
from kcv.exporting import graph, quantization
from kcv.exporting.formats import DEFAULT_OPSET
from kcv.exporting.graph import OPSETS
from kcv.exporting.quantization import Int8Tradeoff

if TYPE_CHECKING:
    from kcv.tasks.export import Export
    from kcv.training.run_folder import Run

pytestmark = pytest.mark.usefixtures("kept_graphs")

FASTER = Int8Tradeoff(0.9, 0.9, 100, {1: 2.0, 32: 1.5}, {"float32": 4, "int8": 1})


def test_the_command_line_offers_what_there_is() -> None:
    opset = find_verb("export").flags["opset"]
    assert (opset.choices, opset.default) == (OPSETS, DEFAULT_OPSET)


def test_the_file_says_what_the_model_says(exported: Export, trained_run: Run, images: Path) -> None:
    model, onnx_model = load_model(trained_run.model_path), OnnxModel(exported.path)
    files = sorted((images / "test").rglob("*.png"))
    np.testing.assert_allclose(onnx_model.predict(files), model.predict(files), atol=1e-5)
    assert onnx_model.class_names == model.class_names
    assert onnx_model.info.data_fingerprint == model.info.data_fingerprint
    assert (exported.precision, exported.opset, exported.trade, exported.refusal) == ("float32", 20, None, None)
    assert exported.bytes == exported.path.stat().st_size
    assert json.loads(json.dumps(exported.to_dict()))["parity"]["agreement"] == 1.0


def test_the_file_lies_beside_the_model_where_nobody_says_otherwise(
    trained_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(trained_run.model_path, tmp_path / "model.keras")
    assert main(["export", str(tmp_path), "--format=json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["path"] == str(tmp_path / "model.onnx")
    assert {path.name for path in tmp_path.iterdir()} == {"model.keras", "model.onnx"}


@pytest.mark.full
def test_images_without_classes_can_check_it_too(trained_run: Run, images: Path, tmp_path: Path) -> None:
    made = export(trained_run.model_path, tmp_path / "m.onnx", samples=str(images / "test" / "left"))
    assert (made.parity.pictures, made.parity.keras_accuracy) == (8, None)
    single = export(trained_run.model_path, tmp_path / "m.onnx", samples=str(images / "test" / "left" / "000.png"))
    assert single.parity.pictures == 1
    labelled = export(trained_run.model_path, tmp_path / "m.onnx", samples=str(images))
    assert (labelled.parity.pictures, labelled.parity.keras_accuracy) == (24, labelled.parity.onnx_accuracy)


def test_int8_is_written_as_int8_and_keeps_the_accuracy(
    trained_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantization, "_TURNS", 2)
    made = export(trained_run.model_path, tmp_path / "m.onnx", precision="int8", force=True)
    assert made.precision == "int8"
    assert made.trade is not None and made.trade.gains.keys() == {1, 32}
    assert made.trade.bytes["int8"] < 0.5 * made.trade.bytes["float32"]
    assert OnnxModel(made.path).info.precision == "int8"
    graph = onnx.load(made.path).graph
    types = {tensor.data_type for tensor in graph.initializer}
    assert onnx.TensorProto.INT8 in types
    (stem,) = (node for node in graph.node if node.op_type == "Conv" and node.name.startswith("block1_whiten"))
    assert not stem.input[0].endswith("DequantizeLinear_Output"), "2x2x3 products are too few to gain in int8"
    assert any(node.op_type == "DequantizeLinear" for node in graph.node)
    # Weights by channel: as many scales as a kernel has outputs.
    scales = [tensor for tensor in graph.initializer if tensor.name.endswith("kernel_scale")]
    assert scales and all(len(tensor.dims) == 1 and tensor.dims[0] > 1 for tensor in scales)
    assert abs(made.trade.int8_accuracy - made.trade.float32_accuracy) <= 0.05


@pytest.mark.parametrize(
    ("trade", "words"),
    [
        (replace(FASTER, int8_accuracy=0.894), "accuracy falls by 0.60 points, from 90.00% to 89.40%"),
        (replace(FASTER, gains={1: 1.01, 32: 3.0}), "not faster on this machine: 1.01x at batch 1"),
        (replace(FASTER, int8_accuracy=float("nan")), "accuracy falls by nan points"),
    ],
)
def test_int8_that_does_not_pay_leaves_the_float32_file_and_says_why(
    trained_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trade: Int8Tradeoff, words: str
) -> None:
    monkeypatch.setattr(quantization, "compare_int8", lambda *files: trade)
    made = export(trained_run.model_path, tmp_path / "m.onnx", precision="int8")
    assert made.precision == "float32"
    assert made.refusal is not None and words in made.refusal
    assert OnnxModel(made.path).info.precision == "float32"


def test_int8_that_pays_is_kept(trained_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert FASTER.rejection_reason is None
    monkeypatch.setattr(quantization, "compare_int8", lambda *files: FASTER)
    made = export(trained_run.model_path, tmp_path / "m.onnx", precision="int8")
    assert (made.precision, made.refusal) == ("int8", None)


def test_named_images_calibrate_and_check_each_with_its_half(
    trained_run: Run, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}
    quantize = quantization.quantize

    def spy(source: Path, target: Path, info: Any, pixels: Any) -> None:
        seen["calibrated"] = pixels
        quantize(source, target, info, pixels)

    monkeypatch.setattr(quantization, "quantize", spy)
    monkeypatch.setattr(
        quantization, "compare_int8", lambda a, b, samples: seen.setdefault("checked", samples) and FASTER
    )
    folder = tmp_path / "more"
    shutil.copytree(images / "train", folder)
    export(trained_run.model_path, tmp_path / "m.onnx", precision="int8", samples=str(folder))
    assert (len(seen["calibrated"]), len(seen["checked"].pixels)) == (45, 45)
    both = {image.tobytes() for image in seen["calibrated"]} & {p.tobytes() for p in seen["checked"].pixels}
    assert not both


def test_what_the_user_gets_wrong_is_said_and_leaves_nothing(trained_run: Run, images: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"allowed: a name that ends in \.onnx"):
        export(trained_run.model_path, tmp_path / "m.keras")
    with pytest.raises(UsageError, match="allowed: float32, int8"):
        export(trained_run.model_path, tmp_path / "m.onnx", precision="float16")
    with pytest.raises(UsageError, match=r"^opset: received 7, allowed: 18, 19, 20, 21"):
        export(trained_run.model_path, tmp_path / "m.onnx", opset=7)
    with pytest.raises(DataError, match="'nowhere'"):
        export(trained_run.model_path, tmp_path / "m.onnx", samples="nowhere")
    with pytest.raises(DataError, match="has no classes, so the accuracy of int8 cannot be checked"):
        export(trained_run.model_path, tmp_path / "m.onnx", precision="int8", samples=str(images / "test" / "left"))
    few = tmp_path / "few"
    for name in ("left", "top"):
        (few / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (16, 16)).save(few / name / f"{number}.png")
    with pytest.raises(DataError, match="6 images are too few for int8, which needs 32 or more"):
        export(trained_run.model_path, tmp_path / "m.onnx", precision="int8", samples=str(few))
    assert [path.name for path in tmp_path.iterdir()] == ["few"]


def test_a_full_disk_is_told_as_the_one_that_it_is(
    trained_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write = Path.write_bytes
    with monkeypatch.context() as patch:
        patch.setattr(
            Path, "write_bytes", lambda path, content: full() if path.parent == tmp_path else write(path, content)
        )
        with pytest.raises(OutputError, match=rf"^cannot write {tmp_path}/m\.onnx: No space left on device$"):
            export(trained_run.model_path, tmp_path / "m.onnx")
    with monkeypatch.context() as patch:  # undone before `kept_graphs` is
        patch.setattr(graph, "write_graph", full)
        with pytest.raises(OutputError, match=r"kcv-\w+: No space left on device; TMPDIR names another folder$"):
            export(trained_run.model_path, tmp_path / "m.onnx")
    assert not list(tmp_path.glob("*.onnx"))


def test_training_data_that_is_gone_is_named_with_what_to_do(trained_run: Run, tmp_path: Path) -> None:
    from kcv.inference import opening

    model = opening.load(trained_run.model_path)
    config = {**model.info.config, "data": {**model.info.config["data"], "source": str(tmp_path / "gone")}}
    moved = replace(model, info=model.info.model_copy(update={"config": config}))
    with pytest.raises(DataError, match=r"gone.* Images to check the export with may be named: --samples=PATH"):
        export(moved, tmp_path / "m.onnx")
