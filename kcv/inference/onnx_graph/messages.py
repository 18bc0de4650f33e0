"""The permitted content of a classifier's ONNX file, field by field (onnx.proto3, IR version 10).

Content that a classifier never has is refused by name: weights in other files, sparse weights, functions, nested graphs
(conditions and loops), values that are not tensors.
"""

from __future__ import annotations

from typing import Final

from kcv.inference.onnx_graph.wire import Field, Message


def _int(name: str) -> Field:
    return Field(name, "int")


def _ints(name: str) -> Field:
    return Field(name, "int", many=True)


def _text(name: str) -> Field:
    return Field(name, "text")


def _texts(name: str) -> Field:
    return Field(name, "text", many=True)


def _one(name: str, message: Message) -> Field:
    return Field(name, "message", message)


def _many(name: str, message: Message) -> Field:
    return Field(name, "message", message, many=True)


def _no(reason: str) -> Field:
    return Field("", "refused", reason=reason)


OTHER_FILES: Final = "keeps its weights in other files, which kcv does not open"
_SPARSE: Final = "holds sparse weights, which kcv does not open"
_NESTED: Final = "holds a graph within its graph (a condition, a loop), which kcv does not open"
_FUNCTIONS: Final = "holds functions of its own, which kcv does not open"
_NO_TENSOR: Final = "holds a value that is no tensor"
_TEXTS: Final = "holds texts in a tensor"

_ENTRY = Message("entry", {1: _text("key"), 2: _text("value")})
_NOTES = _many("notes", _ENTRY)

_OPSET = Message("opset_import", {1: _text("domain"), 2: _int("version")})

_SIZE = Message("dim", {1: _int("value"), 2: _text("parameter"), 3: _text("denotation")})
_SHAPE = Message("shape", {1: _many("sizes", _SIZE)})
_TENSOR_TYPE = Message("tensor_type", {1: _int("element"), 2: _one("shape", _SHAPE)})
_TYPE = Message(
    "type",
    {
        1: _one("tensor", _TENSOR_TYPE),
        4: _no(_NO_TENSOR),
        5: _no(_NO_TENSOR),
        6: _text("denotation"),
        7: _no(_NO_TENSOR),
        8: _no(_NO_TENSOR),
        9: _no(_NO_TENSOR),
    },
)
_VALUE = Message("value", {1: _text("name"), 2: _one("type", _TYPE), 3: _text("doc"), 4: _NOTES})

TENSOR = Message(
    "tensor",
    {
        1: _ints("dims"),
        2: _int("element"),
        3: _no("holds a tensor in segments"),
        4: Field("floats", "floats", many=True),
        5: _ints("int32s"),
        6: _no(_TEXTS),
        7: _ints("int64s"),
        8: _text("name"),
        9: Field("raw", "bytes"),
        10: Field("doubles", "doubles", many=True),
        11: _ints("uint64s"),
        12: _text("doc"),
        13: _no(OTHER_FILES),
        14: _int("place"),
        16: _NOTES,
    },
)
"""If `place` is not 0, the tensor is in another file."""

ATTRIBUTE = Message(
    "attribute",
    {
        1: _text("name"),
        2: Field("float", "float"),
        3: _int("int"),
        4: Field("text", "bytes"),
        5: _one("tensor", TENSOR),
        6: _no(_NESTED),
        7: Field("floats", "floats", many=True),
        8: _ints("ints"),
        9: Field("texts", "bytes", many=True),
        10: _many("tensors", TENSOR),
        11: _no(_NESTED),
        13: _text("doc"),
        14: _no(_NO_TENSOR),
        15: _no(_NO_TENSOR),
        20: _int("type"),
        21: _no(_FUNCTIONS),
        22: _no(_SPARSE),
        23: _no(_SPARSE),
    },
)

NODE = Message(
    "node",
    {
        1: _texts("inputs"),
        2: _texts("outputs"),
        3: _text("name"),
        4: _text("operator"),
        5: _many("attributes", ATTRIBUTE),
        6: _text("doc"),
        7: _text("domain"),
        8: _text("overload"),
        9: _NOTES,
    },
)

_PARAMETERS = Message("quantization_annotation", {1: _text("name"), 2: _NOTES})

GRAPH = Message(
    "graph",
    {
        1: _many("nodes", NODE),
        2: _text("name"),
        5: _many("weights", TENSOR),
        10: _text("doc"),
        11: _many("inputs", _VALUE),
        12: _many("outputs", _VALUE),
        13: _many("values", _VALUE),
        14: _many("quantised", _PARAMETERS),
        15: _no(_SPARSE),
        16: _NOTES,
    },
)

MODEL = Message(
    "model",
    {
        1: _int("version"),
        2: _text("producer"),
        3: _text("producer_version"),
        4: _text("domain"),
        5: _int("model_version"),
        6: _text("doc"),
        7: _one("graph", GRAPH),
        8: _many("opsets", _OPSET),
        14: _many("metadata", _ENTRY),
        20: _no("holds a training"),
        25: _no(_FUNCTIONS),
    },
)
