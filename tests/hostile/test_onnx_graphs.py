"""ONNX files made by hand: what onnxruntime would do for ever, without bound or elsewhere is refused before."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_by_hand import SIZE, crafted, node, numbers, tail

from kcv.cli import main
from kcv.errors import ArtifactError
from kcv.inference.onnx_graph import Damaged, wire
from kcv.inference.onnx_graph.messages import MODEL, TENSOR
from kcv.inference.onnx_graph.wire import Message, Walker
from kcv.inference.onnx_model import OnnxModel

Proto = Any


def write(model: Proto, folder: Path) -> Path:
    path = folder / "m.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return path


def with_scalar(nodes: Sequence[Proto], weights: Sequence[Proto] = ()) -> Proto:
    """Returns a model that adds a number `s` to its logits."""
    return crafted([*nodes, node("Add", ["first", "s"], ["last"]), *tail("last")], weights)


def shapes(name: str, *sizes: int) -> Proto:
    return numbers(name, sizes, "i8")


def nested(kind: str, **graphs: Proto) -> Proto:
    inputs = {"Loop": ["turns", "", "first"], "If": ["yes"], "Scan": ["first"]}[kind]
    more = {"num_scan_inputs": 1} if kind == "Scan" else {}
    return node(kind, inputs, ["last"], **graphs, **more)


def body(kind: str) -> Proto:
    number, floats = TensorProto.INT64, TensorProto.FLOAT
    truth = helper.make_tensor_value_info("go", TensorProto.BOOL, [])
    value = helper.make_tensor_value_info("in", floats, None)
    out = helper.make_tensor_value_info("out", floats, None)
    if kind == "Loop":
        turn = helper.make_tensor_value_info("turn", number, [])
        same = [node("Identity", ["in"], ["out"]), node("Identity", ["go"], ["go_on"])]
        on = helper.make_tensor_value_info("go_on", TensorProto.BOOL, [])
        return helper.make_graph(same, "body", [turn, truth, value], [on, out])
    inputs = [value] if kind == "Scan" else []
    return helper.make_graph([node("Identity", ["in" if inputs else "first"], ["out"])], "body", inputs, [out])


def functions() -> Proto:
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("evil", 1)]
    made = []
    for depth in range(28):
        calls = [node(f"F{depth - 1}", [a], [b], domain="evil") for a, b in (("x", "t"), ("t", "y"))]
        calls = calls if depth else [node("Identity", ["x"], ["y"])]
        made.append(helper.make_function("evil", f"F{depth}", ["x"], ["y"], calls, opsets))
    call = node("F27", ["first"], ["last"], domain="evil")
    return crafted([call, *tail("last")], functions=made, opsets=opsets[1:])


def sparse(as_constant: bool) -> Proto:
    tensor = onnx.SparseTensorProto()
    tensor.values.CopyFrom(numbers("w", [1.0]))
    tensor.indices.CopyFrom(numbers("wi", [0], "i8"))
    tensor.dims.extend([2**20, 2**9])
    if as_constant:
        constant = node("Constant", [], ["w"], sparse_value=tensor)
        return with_scalar([constant, node("ReduceMax", ["w"], ["s"], keepdims=0)])
    model = with_scalar([node("ReduceMax", ["w"], ["s"], keepdims=0)])
    model.graph.sparse_initializer.append(tensor)
    return model


def folding() -> Proto:
    one = numbers("", [1.0])
    full = [node("ConstantOfShape", [f"{name}s"], [name], value=one) for name in "ab"]
    product = [node("MatMul", ["a", "b"], ["c"]), node("ReduceMean", ["c"], ["s"], keepdims=0)]
    return with_scalar([*full, *product], [shapes("as", 12_000, 12_000), shapes("bs", 12_000, 12_000)])


def doubled(times: int) -> Proto:
    """Returns a model that joins a weight with itself again and again."""
    names = ["one", *(f"d{time}" for time in range(times))]
    joins = [node("Concat", [a, a], [b], axis=0) for a, b in itertools.pairwise(names)]
    return with_scalar([*joins, node("ReduceMax", [names[-1]], ["s"], keepdims=0)], [numbers("one", [0.0])])


def on_constants(kind: str, *inputs: Proto, **attributes: Any) -> Proto:
    names = [tensor.name for tensor in inputs]
    return with_scalar([node(kind, names, ["c"], **attributes), node("ReduceMax", ["c"], ["s"], keepdims=0)], inputs)


def per_image(*sizes: int) -> Proto:
    """Returns a model that repeats an image's numbers."""
    expand = [node("Unsqueeze", ["first", "two"], ["tall"]), node("Expand", ["tall", "sizes"], ["wide"])]
    back = [node("ReduceMean", ["wide", "two"], ["last"], keepdims=0)]
    return crafted([*expand, *back, *tail("last")], [shapes("two", 2), shapes("sizes", *sizes)])


def products_of_images() -> Proto:
    """Returns a model that compares each image with each."""
    across = [node("Transpose", ["first"], ["turned"], perm=[1, 0]), node("MatMul", ["first", "turned"], ["all"])]
    return crafted([*across, node("MatMul", ["all", "first"], ["last"]), *tail("last")])


def size_from_pixels(*sizes: int) -> Proto:
    largest = [node("Cast", ["image"], ["whole"], to=7), node("ReduceMax", ["whole"], ["most"], keepdims=0)]
    wanted = [node("Mul", ["most", "zero"], ["none"]), node("Add", ["none", "want"], ["sizes"])]
    nodes = [*largest, *wanted, node("Expand", ["first", "sizes"], ["last"]), *tail("last")]
    return crafted(nodes, [numbers("zero", 0, "i8"), shapes("want", *sizes)])


def padded(**attributes: Any) -> Proto:
    images = [node("Transpose", ["floats"], ["channels"], perm=[0, 3, 1, 2])]
    images += [node("Conv", ["channels", "filter"], ["wide"], **attributes)]
    images += [node("GlobalAveragePool", ["wide"], ["mean"]), node("Flatten", ["mean"], ["last"])]
    return crafted([*images, *tail("last")], [numbers("filter", np.ones((3, 3, 1, 1)))])


def varint(number: int) -> bytes:
    out = b""
    while True:
        piece, number = number & 127, number >> 7
        if not number:
            return out + bytes([piece])
        out += bytes([piece | 128])


def field(number: int, content: bytes | int, size: bytes | None = None) -> bytes:
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + (size or varint(len(content))) + content


def elsewhere(*, length: bytes | None = None, place: int | None = 1, nested: bool = False) -> bytes:
    """Returns a model with a weight in another file, spelled in one of many ways."""
    entry = field(1, b"location", length) + field(2, b"secret.bin")
    tensor = field(1, 3) + field(1, 3) + field(2, 1) + field(8, b"w") + field(13, entry)
    tensor += field(14, place) if place is not None else b""
    model = crafted(tail("first"))
    graph = model.graph.SerializeToString() + field(5, tensor)
    if nested:
        attribute = field(1, b"value") + field(5, tensor) + field(20, 4)
        graph = model.graph.SerializeToString() + field(1, field(2, b"c") + field(4, b"Constant") + field(5, attribute))
    model.ClearField("graph")
    return bytes(model.SerializeToString() + field(7, graph))


def two_graphs() -> bytes:
    """Returns a model whose graph comes in two pieces, which other readers join."""
    model = crafted(tail("first"))
    return bytes(model.SerializeToString() + field(7, field(5, field(8, b"w"))))


def of_opset(version: int) -> Proto:
    return crafted(tail("first"), opset=version)


def many_fields() -> bytes:
    return bytes(crafted(tail("first")).SerializeToString()) + field(14, field(1, b"k")) * 500_000


def many_nodes() -> Proto:
    names = ["first", *(f"r{number}" for number in range(20_001))]
    chain = [node("Relu", [a], [b]) for a, b in itertools.pairwise(names)]
    return crafted([*chain, *tail(names[-1])])


HOSTILE: dict[str, tuple[Callable[[], Proto], str]] = {
    "weights elsewhere": (elsewhere, "in other files"),
    "weights elsewhere, a length of two bytes": (lambda: elsewhere(length=b"\x88\x00"), "in other files"),
    "weights elsewhere, a length of ten bytes": (
        lambda: elsewhere(length=b"\x88" + b"\x80" * 8 + b"\0"),
        "in other files",
    ),
    "weights elsewhere, not said": (lambda: elsewhere(place=None), "in other files"),
    "weights elsewhere, in a constant": (lambda: elsewhere(nested=True), "in other files"),
    "a graph in two pieces": (two_graphs, "holds graph twice"),
    "functions that call each other": (functions, "functions"),
    "a loop without end": (
        lambda: crafted([nested("Loop", body=body("Loop")), *tail("last")], [numbers("turns", 2**62, "i8")]),
        "graph within its graph",
    ),
    "a condition": (
        lambda: crafted(
            [nested("If", then_branch=body("If"), else_branch=body("If")), *tail("last")], [numbers("yes", True, "?")]
        ),
        "graph within its graph",
    ),
    "a scan": (lambda: crafted([nested("Scan", body=body("Scan")), *tail("last")]), "graph within its graph"),
    "sparse weights": (lambda: sparse(False), "sparse weights"),
    "a sparse constant": (lambda: sparse(True), "sparse weights"),
    "a large product of constants": (folding, "'ConstantOfShape', which no classifier needs"),
    "a product of vectors": (
        lambda: on_constants("MatMul", numbers("a", np.ones((30_000, 1))), numbers("b", np.ones((1, 30_000)))),
        "depend on no image",
    ),
    "a sum of vectors": (
        lambda: on_constants("Add", numbers("a", np.ones((30_000, 1))), numbers("b", np.ones((1, 30_000)))),
        "depend on no image",
    ),
    "a weight joined with itself": (lambda: doubled(30), "depend on no image"),
    "a weight joined with itself 60 times": (lambda: doubled(60), "impossible size"),
    "a number made a tensor": (
        lambda: on_constants("Expand", numbers("a", [0.0]), shapes("to", 2**30, 2)),
        "depend on no image",
    ),
    "a border of a billion": (
        lambda: on_constants("Pad", numbers("a", [0.0]), shapes("to", 0, 2**30)),
        "depend on no image",
    ),
    "a border of 2 to the 62nd": (
        lambda: on_constants("Pad", numbers("a", [0.0]), shapes("to", 2**62, 2**62)),
        "impossible size",
    ),
    "an image made larger": (
        lambda: on_constants(
            "Resize", numbers("a", np.zeros((1, 1, 2, 2))), numbers("roi", []), numbers("f", [1, 1, 999, 999])
        ),
        "depend on no image",
    ),
    "many products for little": (
        lambda: on_constants("MatMul", numbers("a", np.ones((700, 700))), numbers("b", np.ones((700, 700)))),
        "depend on no image",
    ),
    "a range": (
        lambda: on_constants("Range", numbers("a", 0.0), numbers("b", 1e9), numbers("c", 1.0)),
        "'Range', which no classifier needs",
    ),
    "5 GB for an image": (lambda: per_image(1, 1, 2**29), "for one image"),
    "2 to the 60th numbers for an image": (lambda: per_image(1, 1, 2**60), "impossible size"),
    "a border of 20,000 around images": (lambda: padded(pads=[10_000] * 4), "for one image"),
    "a stride of zero": (lambda: padded(strides=[0, 0]), "cannot take"),
    "a negative stride": (lambda: padded(strides=[-1, -1]), "cannot take"),
    "a negative border": (lambda: padded(pads=[-3] * 4), "cannot take"),
    "no group": (lambda: padded(group=0), "cannot take"),
    "images that are mixed": (products_of_images, "mixes images"),
    "a size from the pixels": (lambda: size_from_pixels(1, 3), "not known before it runs"),
    "a custom operator": (
        lambda: crafted([node("Run", ["first"], ["last"], domain="evil"), *tail("last")]),
        "'evil.Run', which no classifier needs",
    ),
    "chance": (
        lambda: crafted([node("RandomNormalLike", ["first"], ["last"]), *tail("last")]),
        "'RandomNormalLike', which no classifier needs",
    ),
    "an older opset": (lambda: of_opset(11), "opset 11"),
    "an opset of tomorrow": (lambda: of_opset(999), "opset 999"),
    "half a million fields": (many_fields, "fields"),
    "20,001 operators": (many_nodes, "operators"),
    "answers of another size": (lambda: crafted([node("Concat", ["first", "first"], ["last"], axis=1), *tail("last")]),
                                "something else of 'logits'"),
    "a value that nothing makes": (lambda: crafted(tail("nothing")), "nothing makes"),
    "a value that is made twice": (lambda: crafted([*tail("first"), *tail("first")]), "twice"),
    "a circle": (
        lambda: crafted([node("Add", ["first", "y"], ["x"]), node("Add", ["first", "x"], ["y"]), *tail("x")]),
        "nothing makes",
    ),
    "weights larger than their content": (
        lambda: with_scalar([node("ReduceMax", ["w"], ["s"], keepdims=0)],
                            [TensorProto(name="w", data_type=1, dims=[2**31], raw_data=b"\0" * 4)]),
        "not what it says",
    ),
    "weights without content": (
        lambda: with_scalar([node("ReduceMax", ["w"], ["s"], keepdims=0)],
                            [TensorProto(name="w", data_type=1, dims=[3])]),
        "not what it says",
    ),
    "weights that are texts": (
        lambda: with_scalar([node("ReduceMax", ["w"], ["s"], keepdims=0)],
                            [TensorProto(name="w", data_type=8, dims=[1], string_data=[b"x"])]),
        "texts in a tensor",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_graph_is_refused_before_onnxruntime_sees_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, message = HOSTILE[name]
    (tmp_path / "secret.bin").write_bytes(bytes(36))
    path = write(make(), tmp_path)
    monkeypatch.setattr("kcv.inference.onnx_model.open_session", lambda *args, **options: pytest.fail("it was opened"))
    with pytest.raises(ArtifactError, match=message) as caught:
        OnnxModel(path, device="cpu")
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and "\n" not in text and len(text) < 400


def test_a_sound_graph_made_by_hand_is_opened(tmp_path: Path) -> None:
    model = OnnxModel(write(crafted(tail("first")), tmp_path), device="cpu")
    image = np.full((3, SIZE, SIZE, 3), 7, np.uint8)
    np.testing.assert_allclose(model.predict(image), np.full((3, 3), 1 / 3), atol=1e-6)
    assert model.predict(image[:0]).shape == (0, 3)


def answering(logits: Sequence[float], probabilities: Sequence[float]) -> Proto:
    """Returns a model that gives these numbers for any image."""
    given = [numbers("given_logits", [logits]), numbers("given", [probabilities]), numbers("none", 0.0)]
    zero = node("Mul", ["first", "none"], ["zero"])
    adds = [node("Add", ["zero", a], [b]) for a, b in (("given_logits", "logits"), ("given", "probabilities"))]
    return crafted([zero, *adds], given)


NAN, INF = float("nan"), float("inf")
SOUND = [0.2, 0.3, 0.5]


@pytest.mark.parametrize(
    ("logits", "probabilities"),
    [
        ([0, 0, NAN], SOUND),
        ([0, INF, 0], SOUND),
        (SOUND, [NAN] * 3),
        (SOUND, [0.5, 0.5, NAN]),
        (SOUND, [INF, 0, 0]),
        (SOUND, [INF, -INF, 1]),
        (SOUND, [1e30, 0, 0]),
        (SOUND, [3e38, 3e38, 3e38]),
        (SOUND, [-0.5, 0.5, 1]),
        (SOUND, [1.5, -0.5, 0]),
        (SOUND, [0, 0, 0]),
        (SOUND, [0.5, 0.5, 0.5]),
    ],
    ids=str,
)
def test_answers_that_are_no_probabilities_end_in_one_line(
    logits: list[float], probabilities: list[float], tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(answering(logits, probabilities), tmp_path)
    image = next((images / "test").rglob("*.png"))
    assert main(["predict", str(image), f"--model={path}"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1 and "its answers are no probabilities" in told.err


def test_answers_that_are_probabilities_are_given(tmp_path: Path) -> None:
    model = OnnxModel(write(answering([1e30, -1e30, 0], SOUND), tmp_path), device="cpu")
    np.testing.assert_allclose(model.predict(np.zeros((2, SIZE, SIZE, 3), np.uint8)), [SOUND] * 2, atol=1e-6)


def test_answers_of_another_size_end_in_one_line(tmp_path: Path) -> None:
    """Whatever the check of the file let pass."""
    model = OnnxModel(write(crafted(tail("first")), tmp_path), device="cpu")
    batch = np.zeros((2, SIZE, SIZE, 3), np.uint8)

    class Session:
        def __init__(self, *answers: Any) -> None:
            self.answers = answers

        def run(self, *args: Any) -> Any:
            return self.answers

    sound = np.full((2, 3), 1 / 3, np.float32)
    for wrong in (sound[:1], sound[:, :2], sound.astype(np.float64), np.zeros((5, 3), np.float32), sound[None]):
        for answers in ((wrong, sound), (sound, wrong)):
            model.session = Session(*answers)
            with pytest.raises(ArtifactError, match="not of the size that its description says"):
                model.run(batch)


def test_a_description_that_comes_twice_or_is_endless_is_refused(tmp_path: Path) -> None:
    model = crafted(tail("first"))
    model.metadata_props.add(key="class_names", value=json.dumps(["x", "y", "z"]))
    with pytest.raises(ArtifactError, match="twice in its description"):
        OnnxModel(write(model, tmp_path), device="cpu")


def test_a_field_is_read_however_it_is_spelled() -> None:
    assert Walker(b"\x08\x09").read(MODEL, 0, 2) == {"version": 9}
    assert Walker(b"\x88\x80\x00\x89\x80\x00").read(MODEL, 0, 6) == {"version": 9}
    for content in (
        b"\x08",
        b"\x08\x80",
        b"\x0f",
        b"\x08\x01\x08\x01",
        b"\x12\x05a",
        b"\x0d\0\0\0\0",
        b"\x08" + b"\x80" * 11,
    ):
        with pytest.raises(Damaged):
            Walker(content).read(MODEL, 0, len(content))


@pytest.mark.parametrize(
    "values", [[0, 1, 127], [128], [-1, 300, 0, 2**31, -(2**63), 2**63 - 1], [], [0] * 200, [1000] * 200]
)
def test_packed_numbers_are_what_they_were(values: list[int]) -> None:
    content = TensorProto(int32_data=[], int64_data=values, name="w").SerializeToString().replace(b"\x42\x01w", b"")
    content = content.replace(b"\x3a", b"\x2a", 1)  # int32_data has more bits here than onnx itself would write
    assert Walker(content).read(TENSOR, 0, len(content)).get("int32s", []) == values


@pytest.mark.parametrize("piece", [b"\x80", b"\x01\xff", b"\xff" * 11 + b"\x01", b"\x01" + b"\x80" * 10 + b"\x01"])
def test_packed_numbers_that_end_nowhere_are_refused(piece: bytes) -> None:
    content = b"\x2a" + bytes([len(piece)]) + piece + b"\x10\x01"
    with pytest.raises(Damaged, match="ends within a number"):
        Walker(content).read(TENSOR, 0, len(content))


@pytest.mark.parametrize(
    ("message", "one", "fits"),
    [(MODEL, b"\x42\x02\x10\x09", 5), (TENSOR, b"\x08\x01", 10), (TENSOR, b"\x2a\x01\x00", 5)],
)
def test_what_comes_again_counts_again(
    message: Message, one: bytes, fits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "MOST_FIELDS", 10)
    assert Walker(one * fits).read(message, 0, len(one) * fits)
    with pytest.raises(Damaged, match="has more than"):
        Walker(one * (fits + 1)).read(message, 0, len(one) * (fits + 1))
    for size in (11, 120):  # and so do packed numbers
        content = b"\x2a" + bytes([size]) + bytes(size)
        with pytest.raises(Damaged, match="has more than"):
            Walker(content).read(TENSOR, 0, len(content))
