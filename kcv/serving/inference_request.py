"""A request of the Open Inference Protocol v2, read from JSON or from JSON with binary tensors behind it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kcv.serving.encoding import from_base64, json_object, whole_number
from kcv.serving.problems import Problem
from kcv.serving.tensors import checked, pixels_of, shape_of, split_bytes

INPUT = "image"
OUTPUTS = ("probabilities", "label", "confidence")


@dataclass(frozen=True)
class Output:
    """An output that a client asks for.

    Attributes:
        name: one of `OUTPUTS`.
        classes: the number of classes to rank as texts, in place of all probabilities; None for the numbers.
        binary: whether it is sent as bytes behind the JSON.
    """

    name: str
    classes: int | None
    binary: bool


@dataclass(frozen=True)
class InferenceRequest:
    """What a client asks for.

    Attributes:
        images: encoded images, or pixels, uint8 [height, width, channels].
        outputs: the outputs, in the order of the answer.
        id: the text that the answer repeats; None if there is none.
    """

    images: list[bytes | NDArray[np.uint8]]
    outputs: list[Output]
    id: str | None


@dataclass(frozen=True)
class Limits:
    """The limits of a request: the most images, and the most pixels of each."""

    images: int
    pixels: int


def read_request(body: bytes, json_bytes: int | None, limits: Limits) -> InferenceRequest:
    """Reads a request.

    Args:
        body: JSON, and behind it the binary tensors.
        json_bytes: the length of the JSON (`Inference-Header-Content-Length`); None if it is all.
        limits: the limits.

    Raises:
        Problem: the request is not understood.
    """
    length = len(body) if json_bytes is None else json_bytes
    if length > len(body):
        raise Problem(400, f"Inference-Header-Content-Length: {length:,} bytes are more than the body has.")
    found = json_object(body[:length])
    identity = found.get("id")
    if identity is not None and (not isinstance(identity, str) or len(identity) > 1000):
        raise Problem(400, "id: must be a text of at most 1,000 characters.")
    tensor = _only_input(found.get("inputs"))
    images = _images(tensor, body[length:], json_bytes is not None, limits)
    return InferenceRequest(images, _outputs(found), identity)


def _only_input(inputs: Any) -> dict[str, Any]:
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise Problem(400, f"inputs: must be a list of one tensor, {INPUT}.")
    tensor: dict[str, Any] = inputs[0]
    if tensor.get("name") != INPUT:
        raise Problem(400, f"inputs[0].name: received {str(tensor.get('name'))[:50]!r}, allowed: {INPUT}.")
    return tensor


def _images(
    tensor: dict[str, Any], binary: bytes, has_binary: bool, limits: Limits
) -> list[bytes | NDArray[np.uint8]]:  # fmt: skip
    where = "inputs[0]"
    shape = shape_of(tensor.get("shape"), f"{where}.shape")
    kind = tensor.get("datatype")
    if kind not in ("BYTES", "UINT8"):
        raise Problem(400, f"{where}.datatype: received {str(kind)[:50]!r}, allowed: BYTES, UINT8.")
    count = math.prod(shape) if kind == "BYTES" else shape[0] if len(shape) == _PIXEL_AXES else 1
    if count > limits.images:
        raise Problem(413, f"{count:,} images in one request are more than the allowed {limits.images:,}.")
    size = _parameters(tensor, where).get("binary_data_size")
    if size is None:
        return _from_json(tensor.get("data"), kind, shape, where, limits)
    if not has_binary or type(size) is not int or size != len(binary):
        raise Problem(400, f"{where}: binary_data_size is not the number of bytes behind the JSON.")
    if kind == "BYTES":
        elements = split_bytes(binary, where, limits.images)
        return _counted(elements, count, where)
    if math.prod(shape) != len(binary):
        raise Problem(400, f"{where}: {len(binary):,} bytes do not fill the shape {shape}.")
    return _each(checked(np.frombuffer(binary, np.uint8).reshape(shape), where, limits.pixels), where)


_PIXEL_AXES = 4


def _from_json(
    data: Any, kind: str, shape: list[int], where: str, limits: Limits
) -> list[bytes | NDArray[np.uint8]]:  # fmt: skip
    if not isinstance(data, list):
        raise Problem(400, f"{where}.data: must be a list.")
    if kind == "UINT8":
        return _each(pixels_of(data, f"{where}.data", limits.pixels, shape), where)
    elements = [from_base64(text, f"{where}.data[{number}]") for number, text in enumerate(data[: limits.images + 1])]
    return _counted(elements, math.prod(shape), where)


def _counted(elements: list[bytes], count: int, where: str) -> list[bytes | NDArray[np.uint8]]:
    if len(elements) != count:
        raise Problem(400, f"{where}: holds {len(elements):,} images, its shape needs {count:,}.")
    return list(elements)


def _each(pixels: NDArray[np.uint8], where: str) -> list[bytes | NDArray[np.uint8]]:
    """Returns the images of a tensor, uint8 [n, height, width, channels] or [height, width, channels]."""
    if pixels.ndim not in (3, _PIXEL_AXES) or pixels.shape[-1] not in (1, 3, 4):
        raise Problem(400, f"{where}.shape: pixels have the shape [n, height, width, 3], not {list(pixels.shape)}.")
    return list(pixels) if pixels.ndim == _PIXEL_AXES else [pixels]


def _outputs(found: dict[str, Any]) -> list[Output]:
    whole = _parameters(found, "parameters")
    asked = found.get("outputs")
    if asked is None:
        asked = [{"name": name} for name in OUTPUTS]
    if not isinstance(asked, list) or not 1 <= len(asked) <= len(OUTPUTS):
        raise Problem(400, f"outputs: must be a list of {', '.join(OUTPUTS)}.")
    outputs: list[Output] = []
    for number, output in enumerate(asked):
        name = output.get("name") if isinstance(output, dict) else None
        if name not in OUTPUTS or name in [other.name for other in outputs]:
            raise Problem(400, f"outputs[{number}].name: received {str(name)[:50]!r}, allowed: {', '.join(OUTPUTS)}.")
        own = {**whole, **_parameters(output, f"outputs[{number}]")}
        classes = own.get("classification")
        binary = own.get("binary_data", own.get("binary_data_output", False)) is True
        ranked = whole_number(classes, "classification") if classes is not None and name == OUTPUTS[0] else None
        outputs.append(Output(name, ranked, binary))
    return outputs


def _parameters(holder: dict[str, Any], where: str) -> dict[str, Any]:
    found = holder.get("parameters")
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise Problem(400, f"{where}: parameters must be an object.")
    return found
