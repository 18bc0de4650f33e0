"""Graphs as they are written: what they compute, what they hold, and what they say of themselves."""

from __future__ import annotations

import errno
import json
from contextlib import nullcontext
from pathlib import Path

import keras
import numpy as np
import onnx
import pytest
from google.protobuf.message import EncodeError
from small_networks import small_networks

from kcv.config import ModelConfig
from kcv.errors import ExportError, KcvError, OutputError
from kcv.exporting import graph as writing
from kcv.exporting.graph import OPSETS, require_valid, save, write_graph
from kcv.inference.onnx_model import OnnxInfo, OnnxModel
from kcv.models import registry
from kcv.native.precision import in_float32, precision_scope

SIZE = 32
TEMPERATURE = 1.7
NAMES = ("resnet50", "efficientnet_b0", "efficientnet_lite0")
NETWORKS = [("custom_cnn", "small")]
NETWORKS += [pytest.param((name, "small"), marks=pytest.mark.full) for name in ("resnet50", "efficientnet_b0")]
NETWORKS += [pytest.param((name, "true"), marks=pytest.mark.long) for name in ("custom_cnn", *NAMES)]
CLASSES = ("cat", "dög", 'a "quoted" one', "ship")


def info(size: int = SIZE) -> OnnxInfo:
    return OnnxInfo(CLASSES, size, "crop", "float32", "net", "photos", "abc", "0", TEMPERATURE)


def images(n: int, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def model(name: str, policy: str = "float32", size: str = "small") -> keras.Model:
    """A network with random weights and moving statistics that are not those of a fresh one."""
    keras.utils.set_random_seed(0)
    with precision_scope(policy), small_networks() if size == "small" else nullcontext():
        width = {"width": 0.25} if (name, size) == ("custom_cnn", "small") else {}
        config = ModelConfig.model_validate({"name": name, "weights": "none", **width})
        built = registry.build(config, SIZE, len(CLASSES), images(64))
    rng = np.random.default_rng(0)
    for layer in built.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            shape = layer.moving_mean.shape
            layer.moving_mean.assign(rng.normal(0, 0.1, shape))
            layer.moving_variance.assign(rng.uniform(0.5, 1.5, shape))
    return built


@pytest.fixture(scope="module", params=NETWORKS, ids=lambda network: " ".join(network))
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[keras.Model, Path]:
    name, size = request.param
    network = model(name, size=size)
    path = tmp_path_factory.mktemp("graphs") / "model.onnx"
    write_graph(network, info(), path)
    return network, path


def test_logits_are_those_of_keras_at_any_batch_size(written: tuple[keras.Model, Path]) -> None:
    network, path = written
    exported = OnnxModel(path, device="cpu")
    for n in (1, 3, 32):
        batch = images(n)
        expected = network(batch, training=False).detach().numpy()
        logits, probabilities = exported.run(batch)
        assert logits.dtype == probabilities.dtype == np.float32
        assert np.abs(expected).max() > 1e-3
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * max(1.0, np.abs(expected).max()))
        softened = np.exp(logits / TEMPERATURE)
        np.testing.assert_allclose(probabilities, softened / softened.sum(1, keepdims=True), atol=1e-6)


def test_the_graph_is_valid_and_says_what_it_takes(written: tuple[keras.Model, Path]) -> None:
    graph = onnx.load(written[1])
    onnx.checker.check_model(graph, full_check=True)
    onnx.shape_inference.infer_shapes(graph, check_type=True, strict_mode=True)
    (image,) = graph.graph.input
    assert (image.name, image.type.tensor_type.elem_type) == ("image", onnx.TensorProto.UINT8)
    assert [size.dim_value for size in image.type.tensor_type.shape.dim] == [0, SIZE, SIZE, 3]
    assert [output.name for output in graph.graph.output] == ["logits", "probabilities"]


def test_normalisation_of_batches_is_in_the_convolutions(written: tuple[keras.Model, Path]) -> None:
    network, path = written
    graph = onnx.load(path)
    producers = {name: node.op_type for node in graph.graph.node for name in node.output}
    # What onnxruntime could fold is folded; behind a pooling it cannot be.
    left = [node for node in graph.graph.node if node.op_type == "BatchNormalization"]
    assert all(producers[node.input[0]] == "MaxPool" for node in left)
    convolutions = [layer for layer in network.layers if "Conv2D" in type(layer).__name__]
    assert sum(node.op_type == "Conv" for node in graph.graph.node) == len(convolutions)


def test_what_runs_in_front_and_between_is_the_least_there_can_be(written: tuple[keras.Model, Path]) -> None:
    graph = onnx.load(written[1]).graph
    kinds = [node.op_type for node in graph.node]
    assert kinds[:4] == ["Transpose", "Cast", "Sub", "Conv"]
    assert kinds[-2:] == ["Div", "Softmax"]
    assert not {"Pad", "Reshape", "ReduceMean", "Identity", "Erf", "Mul", "Div"} & set(kinds[:-2]) - (
        {"Mul"} if "Sigmoid" in kinds else set()
    )


def test_metadata_holds_what_a_program_needs_and_nothing_of_this_machine(written: tuple[keras.Model, Path]) -> None:
    graph = onnx.load(written[1])
    texts = {prop.key: prop.value for prop in graph.metadata_props}
    assert json.loads(texts["class_names"]) == list(CLASSES)
    assert (texts["image_size"], texts["resize"], texts["data_fingerprint"]) == (str(SIZE), "crop", "abc")
    assert OnnxModel(written[1], device="cpu").info == info()
    assert graph.producer_name == "kcv"
    content = written[1].read_bytes()
    assert b"site-packages" not in content
    assert str(Path(__file__).parents[2]).encode() not in content


def test_nodes_and_weights_bear_the_names_of_the_layers(written: tuple[keras.Model, Path]) -> None:
    network, path = written
    graph = onnx.load(path).graph
    names = [node.name for node in graph.node]
    assert len(names) == len(set(names))
    layers = {layer.name for layer in network.layers}
    assert {name.partition("/")[0] for name in names} <= layers | {"output"}
    kernels = {tensor.name for tensor in graph.initializer if tensor.name.endswith("/kernel")}
    of_convolutions = [name.replace("/Conv", "/kernel") for name in names if name.endswith("/Conv")]
    assert {"logits/kernel", *of_convolutions} <= kernels and of_convolutions
    if network.name == "custom_cnn":
        assert {"normalise/Sub", "block1_whiten/Conv", "block1_gelu/Gelu", "logits/Gemm"} <= set(names)
        assert "block1_whiten/kernel" in kernels


@pytest.mark.full
@pytest.mark.parametrize("opset", [OPSETS[0], OPSETS[-1]])
def test_a_model_in_mixed_precision_is_exported_in_float32_for_the_opset_asked_for(tmp_path: Path, opset: int) -> None:
    mixed, exact = model("custom_cnn", "mixed_bfloat16"), model("custom_cnn")
    exact.set_weights(mixed.get_weights())
    rebuilt = in_float32(mixed)
    assert rebuilt is not mixed
    assert in_float32(exact) is exact
    np.testing.assert_array_equal(rebuilt(images(2)).detach(), exact(images(2)).detach())
    write_graph(rebuilt, info(), tmp_path / "m.onnx", opset=opset)
    assert [(entry.domain, entry.version) for entry in onnx.load(tmp_path / "m.onnx").opset_import] == [("", opset)]
    logits, _ = OnnxModel(tmp_path / "m.onnx", device="cpu").run(images(5))
    expected = exact(images(5), training=False).detach().numpy()
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * max(1.0, np.abs(expected).max()))
    assert not np.allclose(expected, mixed(images(5)).detach().float().numpy(), atol=1e-5)


def test_what_cannot_be_exported_is_one_clear_line(tmp_path: Path) -> None:
    class Custom(keras.Model):
        def call(self, x: object) -> object:
            return x

    with pytest.raises(ExportError, match=r"^\S+ cannot be exported: .*no functional model"):
        write_graph(Custom(), info(), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_a_graph_that_is_larger_than_a_file_can_be_is_one_clear_line(
    written: tuple[keras.Model, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, path = written
    monkeypatch.setattr(writing, "_trace", lambda *_: onnx.load(path))
    monkeypatch.setattr(writing, "MOST_BYTES", 4096)
    told = rf"^{network.name} cannot be exported: its graph has more than 4,096 bytes, the most of an ONNX file\.$"
    with pytest.raises(ExportError, match=told):
        write_graph(network, info(), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_what_protobuf_cannot_count_is_too_large() -> None:
    class Huge:
        def ByteSize(self) -> int:
            raise EncodeError("Failed to serialize proto")

    with pytest.raises(ExportError, match=r"^net cannot be exported: its graph has more than 2,147,483,647 bytes"):
        require_valid(Huge(), "net")  # type: ignore[arg-type]


def test_what_is_no_graph_is_one_clear_line(written: tuple[keras.Model, Path]) -> None:
    wrong = onnx.load(written[1])
    wrong.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 77  # the types are right, the shape is not
    with pytest.raises(ExportError, match=r"^net cannot be exported: ") as caught:
        require_valid(wrong, "net")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), OutputError, r"cannot write \S+m\.onnx: No space left"),
        (
            PermissionError(errno.EACCES, "Permission denied"),
            OutputError,
            r"cannot write \S+m\.onnx: Permission denied",
        ),
        (
            EncodeError("Failed to serialize proto\nof 3 GB"),
            ExportError,
            "cannot be written: Failed to serialize proto$",
        ),
    ],
)
def test_a_file_that_cannot_be_written_is_one_line(
    fault: Exception, kind: type[KcvError], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise fault

    monkeypatch.setattr(onnx, "save", fail)
    with pytest.raises(kind, match=words) as caught:
        save(onnx.ModelProto(), tmp_path / "m.onnx")
    assert "\n" not in str(caught.value)
