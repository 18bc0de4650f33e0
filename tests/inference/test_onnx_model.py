"""ONNX files opened without Keras: what they say, and files that are not what they should be."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

from kcv.errors import ArtifactError, DeviceError, ImageError
from kcv.inference.onnx_model import OnnxModel

if TYPE_CHECKING:
    from kcv.tasks.export import Export


def changed(exported: Export, target: Path, **texts: str | None) -> Path:
    """Copies an exported file with other metadata; None takes a text away."""
    graph = onnx.load(exported.path)
    metadata = {prop.key: prop.value for prop in graph.metadata_props} | texts
    onnx.helper.set_model_props(graph, {key: value for key, value in metadata.items() if value is not None})
    onnx.save(graph, target)
    return target


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ({"class_names": "[" * 100_000}, "its description is damaged"),
        ({"class_names": '["a", "a", "b"]'}, "its description is damaged"),
        ({"temperature": "nan"}, "its description is damaged"),
        ({"threshold": "1.5"}, "its description is damaged"),
        ({"kcv_format": "2", "image_size": "large"}, "written by a newer kcv"),
        ({"kcv_format": None}, "was not exported by kcv"),
        ({"kcv_format": "99"}, r"written by a newer kcv \(format 99\); this one reads 1"),
        ({"image_size": "wide"}, "its description is damaged"),
        ({"image_size": "99999"}, "its description is damaged"),
        ({"image_size": "24"}, "its inputs and outputs are not what its description says"),
        ({"class_names": "[1, 2, 3]"}, "its description is damaged"),
        ({"class_names": '["only"]'}, "its description is damaged"),
        ({"class_names": '["a", "b"]'}, "its inputs and outputs are not what its description says"),
        ({"class_names": "{"}, "its description is damaged"),
        ({"resize": "melt"}, "its description is damaged"),
    ],
)
def test_a_description_that_is_not_sound_is_refused(
    exported: Export, tmp_path: Path, texts: dict[str, str | None], words: str
) -> None:
    path = changed(exported, tmp_path / "m.onnx", **texts)
    with pytest.raises(ArtifactError, match=words) as caught:
        OnnxModel(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_files_that_are_no_model_are_refused(exported: Export, tmp_path: Path) -> None:
    whole = exported.path.read_bytes()
    for name, content in {"empty": b"", "text": b"no model", "cut": whole[: len(whole) // 2]}.items():
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match="cannot be opened as an ONNX model"):
            OnnxModel(path)
    with pytest.raises(ArtifactError, match="no such model file"):
        OnnxModel(tmp_path / "none.onnx")
    with pytest.raises(ArtifactError, match="is a folder"):
        OnnxModel(tmp_path)


def test_a_device_that_is_not_there_is_said(exported: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(DeviceError, match="device='cuda' is not available to onnxruntime here; available: cpu"):
        OnnxModel(exported.path, device="cuda")
    OnnxModel(exported.path, device="cpu")


def test_arrays_and_paths_batches_and_threads_give_the_same(exported: Export, images: Path, tmp_path: Path) -> None:
    files = sorted((images / "test").rglob("*.png"))
    model, single = OnnxModel(exported.path), OnnxModel(exported.path, threads=1)
    from kcv.images import stack

    pixels = stack(files, 16, "squash")
    expected = model.predict(files)
    assert expected.shape == (24, 3) and expected.dtype == np.float32
    np.testing.assert_allclose(expected.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(model.predict(pixels, batch_size=5), expected, atol=1e-6)
    np.testing.assert_allclose(single.predict(pixels), expected, atol=1e-6)
    assert (model.concurrent, single.concurrent) == (False, True)
    assert model.predict([]).shape == (0, 3)
    with pytest.raises(ImageError, match="must be uint8"):
        model.predict(np.zeros((2, 16, 16, 1), np.uint8))
    odd = tmp_path / "a name with spaces, 100%.onnx"
    shutil.copy(exported.path, odd)
    np.testing.assert_array_equal(OnnxModel(odd).predict(pixels), model.predict(pixels))


@pytest.mark.parametrize("output", ["logits", "probabilities"])
def test_a_file_without_an_output_is_refused(exported: Export, tmp_path: Path, output: str) -> None:
    graph = onnx.load(exported.path)
    (place,) = [i for i, value in enumerate(graph.graph.output) if value.name == output]
    del graph.graph.output[place]
    onnx.save(graph, tmp_path / "m.onnx")
    with pytest.raises(ArtifactError, match="its inputs and outputs are not what its description says"):
        OnnxModel(tmp_path / "m.onnx", device="cpu")


def test_a_file_that_wants_floats_is_refused(exported: Export, tmp_path: Path) -> None:
    graph = onnx.load(exported.path)
    graph.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    onnx.save(graph, tmp_path / "m.onnx")
    with pytest.raises(ArtifactError, match="its inputs and outputs are not what its description says"):
        OnnxModel(tmp_path / "m.onnx", device="cpu")
