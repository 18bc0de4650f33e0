"""Hostile ONNX files: refused in one line, before anything outside of them is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import pytest
from onnx import TensorProto, helper

from kcv.errors import ArtifactError
from kcv.inference.onnx_model import OnnxModel

if TYPE_CHECKING:
    from kcv.tasks.export import Export

Proto = Any


def outside(location: str) -> Callable[[Proto], None]:
    def spoil(model: Proto) -> None:
        tensor = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        size = len(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", str(size))):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value

    return spoil


def described(**changes: str | None) -> Callable[[Proto], None]:
    def spoil(model: Proto) -> None:
        kept = {entry.key: entry.value for entry in model.metadata_props} | changes
        del model.metadata_props[:]
        helper.set_model_props(model, {key: value for key, value in kept.items() if value is not None})

    return spoil


def foreign_operator(model: Proto) -> None:
    model.graph.node[0].domain, model.graph.node[0].op_type = "evil", "Run"
    model.opset_import.append(helper.make_opsetid("evil", 1))


def no_outputs(model: Proto) -> None:
    del model.graph.output[:]


SETS = '{"wanted_coverage": 0.9, "least": 0.1, "images": 40}'
SPOILED: dict[str, tuple[Callable[[Proto], None], str]] = {
    "weights beside it": (outside("weights.bin"), "in other files"),
    "weights above it": (outside("../../etc/passwd"), "in other files"),
    "weights anywhere": (outside("/etc/passwd"), "in other files"),
    "a foreign operator": (foreign_operator, "cannot be opened|inputs and outputs"),
    "no outputs": (no_outputs, "cannot be opened|inputs and outputs"),
    "no description": (described(kcv_format=None), "not exported by kcv"),
    "a newer format": (described(kcv_format="99"), "written by a newer kcv"),
    "a format of words": (described(kcv_format="one"), "description is damaged"),
    "class names that are a number": (described(class_names="7"), "description is damaged"),
    "class names of brackets": (described(class_names="[" * 100_000), "description is damaged"),
    "class names that are alike": (described(class_names='["a", "a", "a"]'), "description is damaged"),
    "class names with an escape": (described(class_names='["\\u001b[2J", "b", "c"]'), "description is damaged"),
    "too many class names": (described(class_names='["a", "b", "c", "d"]'), "inputs and outputs"),
    "a size of a million": (described(image_size="1000000"), "description is damaged"),
    "a size below zero": (described(image_size="-5"), "description is damaged"),
    "a temperature of zero": (described(temperature="0"), "description is damaged"),
    "a temperature that is no number": (described(temperature="nan"), "description is damaged"),
    "a threshold above one": (described(threshold="7"), "description is damaged"),
    "sets that are a list": (described(prediction_sets="[]"), "is damaged: holds list"),
    "sets of brackets": (described(prediction_sets="[" * 100_000), "or damaged"),
    "sets of no probability": (described(prediction_sets=SETS.replace("0.1", "7")), "is damaged: least"),
    "sets for more than all": (described(prediction_sets=SETS.replace("0.9", "1.5")), "is damaged: wanted_coverage"),
    "a view of another kind": (described(tta="five_crop"), "description is damaged"),
    "calibrations that are a list": (described(tta_calibrations="[]"), "is damaged: holds list"),
    "a calibration of no augmentation": (described(tta_calibrations='{"../x": {}}'), "is damaged"),
    "a calibration of no temperature": (described(tta_calibrations='{"flip": {"temperature": -1}}'), "is damaged"),
    "another resize": (described(resize="../x"), "description is damaged"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_onnx_file_is_refused(name: str, exported: Export, tmp_path: Path) -> None:
    spoil, message = SPOILED[name]
    model = onnx.load(exported.path)
    spoil(model)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError, match=message) as caught:
        OnnxModel(tmp_path / "m.onnx", device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\x08", b"GIF89a", bytes(1000), b"\x0a" + b"\xff" * 9], ids=len)
def test_bytes_that_are_no_onnx_file_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ArtifactError):
        OnnxModel(tmp_path / "m.onnx", device="cpu")
