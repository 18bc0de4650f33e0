"""The Open Inference Protocol v2: what its clients send, in JSON and in binary, and what they get."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import numpy as np
import pytest
from served_images import photo
from serving import Running

from kcv import __version__, images

INFER = "/v2/models/net/infer"
PHOTOS = [photo(seed) for seed in range(3)]
B64 = [base64.b64encode(content).decode() for content in PHOTOS]


def tensor(**changes: Any) -> dict[str, Any]:
    return {"name": "image", "datatype": "BYTES", "shape": [3], "data": B64, **changes}


def outputs(answered: Any) -> dict[str, Any]:
    assert answered.code == 200, answered.body
    return {output["name"]: output for output in answered.json["outputs"]}


@pytest.fixture(scope="module")
def expected(running: Running) -> np.ndarray[Any, Any]:
    """The probabilities of `PHOTOS`, in the order of the classes."""
    rows = [running.post("/predict", content).json["predictions"][0]["top"] for content in PHOTOS]
    return np.array([[one["confidence"] for one in sorted(row, key=lambda one: one["label"])] for row in rows])


def test_the_server_and_its_model_describe_themselves(running: Running) -> None:
    assert running.get("/v2").json == {
        "name": "kcv", "version": __version__, "extensions": ["classification", "binary_tensor_data"],
    }  # fmt: skip
    assert running.get("/v2/health/live").json == {"live": True}
    assert running.get("/v2/health/ready").json == {"ready": True}
    described = running.get("/v2/models/net").json
    version = running.service.version().digest
    assert described["versions"] == [version]
    assert described["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
    assert described["class_names"] == ["a", "b", "c"]
    assert running.get(f"/v2/models/net/versions/{version}").json == described
    assert running.get("/v2/models/net/ready").json == {"name": "net", "ready": True}
    for path in ("/v2/models/other", "/v2/models/other/ready", "/v2/models/net/versions/2"):
        assert running.get(path).code == 404


def test_encoded_images_are_classified(running: Running, expected: np.ndarray[Any, Any]) -> None:
    answered = running.post(INFER, {"id": "seven", "inputs": [tensor()]})
    found = outputs(answered)
    assert (answered.json["id"], answered.json["model_name"]) == ("seven", "net")
    assert found["probabilities"]["shape"] == [3, 3]
    assert np.reshape(found["probabilities"]["data"], (3, 3)) == pytest.approx(expected, abs=1e-6)
    assert found["label"]["data"] == ["abc"[at] for at in expected.argmax(axis=1)]
    assert found["confidence"]["data"] == pytest.approx(expected.max(axis=1), abs=1e-6)


def test_pixels_are_classified_like_the_files_they_are_of(running: Running, expected: np.ndarray[Any, Any]) -> None:
    pixels = np.stack([images.decode(content) for content in PHOTOS])
    for data in (pixels.tolist(), pixels.ravel().tolist()):
        sent = tensor(datatype="UINT8", shape=list(pixels.shape), data=data)
        found = outputs(running.post(INFER, {"inputs": [sent]}))
        assert np.reshape(found["probabilities"]["data"], (3, 3)) == pytest.approx(expected, abs=1e-6)
    one = tensor(datatype="UINT8", shape=list(pixels[0].shape), data=pixels[0].ravel().tolist())
    assert outputs(running.post(INFER, {"inputs": [one]}))["label"]["shape"] == [1]


def binary(head: dict[str, Any], content: bytes) -> tuple[bytes, dict[str, str]]:
    text = json.dumps(head).encode()
    return text + content, {"Inference_Header_Content_Length": str(len(text))}


def test_tensors_travel_in_binary_both_ways(running: Running, expected: np.ndarray[Any, Any]) -> None:
    content = b"".join(struct.pack("<I", len(one)) + one for one in PHOTOS)
    head = {
        "inputs": [tensor(data=None, parameters={"binary_data_size": len(content)})],
        "outputs": [{"name": "probabilities", "parameters": {"binary_data": True}},
                    {"name": "label", "parameters": {"binary_data": True}}, {"name": "confidence"}],
    }  # fmt: skip
    body, headers = binary(head, content)
    answered = running.post(INFER, body, **headers)
    assert answered.code == 200
    length = int(answered.headers["inference-header-content-length"])
    described = {output["name"]: output for output in json.loads(answered.body[:length])["outputs"]}
    rest = answered.body[length:]
    size = described["probabilities"]["parameters"]["binary_data_size"]
    assert np.frombuffer(rest[:size], "<f4").reshape(3, 3) == pytest.approx(expected, abs=1e-6)
    labels = [struct.pack("<I", 1) + b"abc"[at : at + 1] for at in expected.argmax(axis=1)]
    assert rest[size:] == b"".join(labels)
    assert described["confidence"]["data"] == pytest.approx(expected.max(axis=1), abs=1e-6)


def test_pixels_travel_in_binary(running: Running, expected: np.ndarray[Any, Any]) -> None:
    pixels = np.stack([images.decode(content) for content in PHOTOS])
    head = {"inputs": [tensor(datatype="UINT8", shape=list(pixels.shape), data=None,
                              parameters={"binary_data_size": pixels.nbytes})]}  # fmt: skip
    body, headers = binary(head, pixels.tobytes())
    found = outputs(running.post(INFER, body, **headers))
    assert np.reshape(found["probabilities"]["data"], (3, 3)) == pytest.approx(expected, abs=1e-6)


def test_the_classification_parameter_ranks_classes_as_texts(running: Running, expected: np.ndarray[Any, Any]) -> None:
    for asked in (
        {"outputs": [{"name": "probabilities", "parameters": {"classification": 2}}]},
        {"parameters": {"classification": 2}, "outputs": [{"name": "probabilities"}]},
    ):
        ranked = outputs(running.post(INFER, {"inputs": [tensor()], **asked}))["probabilities"]
        assert (ranked["datatype"], ranked["shape"]) == ("BYTES", [3, 2])
        value, at, name = ranked["data"][0].split(":")
        assert (int(at), name) == (expected[0].argmax(), "abc"[expected[0].argmax()])
        assert float(value) == pytest.approx(expected[0].max(), abs=1e-6)


@pytest.mark.parametrize(
    ("request_", "code", "words"),
    [
        ({}, 400, "inputs: must be a list of one tensor"),
        ({"inputs": [tensor(), tensor()]}, 400, "inputs: must be a list of one tensor"),
        ({"inputs": [tensor(name="picture")]}, 400, "inputs[0].name: received 'picture', allowed: image"),
        ({"inputs": [tensor(datatype="FP32")]}, 400, "allowed: BYTES, UINT8"),
        ({"inputs": [tensor(shape=[2])]}, 400, "holds 3 images, its shape needs 2"),
        ({"inputs": [tensor(shape=[-1])]}, 400, "a shape is a list"),
        ({"inputs": [tensor(shape=[True])]}, 400, "a shape is a list"),
        ({"inputs": [tensor(shape=[10**9])]}, 413, "more than the allowed 512"),
        ({"inputs": [tensor(data="abc")]}, 400, "inputs[0].data: must be a list"),
        ({"inputs": [tensor(data=["?", "", ""])]}, 400, "inputs[0].data[0]: is no base64"),
        ({"inputs": [tensor(data=[1, 2, 3])]}, 400, "must be text in base64"),
        ({"inputs": [tensor(data=["aaaa", *B64[:2]])]}, 415, "1 of 3: image: not an image"),
        ({"inputs": [tensor(datatype="UINT8", shape=[2, 2, 3], data=[300] * 12)]}, 400, "from 0 to 255"),
        ({"inputs": [tensor(datatype="UINT8", shape=[2, 2, 3], data=[0.5] * 12)]}, 400, "whole numbers"),
        ({"inputs": [tensor(datatype="UINT8", shape=[2, 2, 3], data=[1] * 11)]}, 400, "holds 11 numbers"),
        ({"inputs": [tensor(datatype="UINT8", shape=[2, 2, 5], data=[1] * 20)]}, 400, "[n, height, width, 3]"),
        ({"inputs": [tensor(datatype="UINT8", shape=[2, 2], data=[[1, 2], [3]])]}, 400, "differ in length"),
        ({"inputs": [tensor(parameters=[1])]}, 400, "parameters must be an object"),
        ({"inputs": [tensor(parameters={"binary_data_size": 9})]}, 400, "binary_data_size"),
        ({"inputs": [tensor()], "outputs": [{"name": "logits"}]}, 400, "outputs[0].name: received 'logits'"),
        ({"inputs": [tensor()], "outputs": [{"name": "label"}] * 2}, 400, "outputs[1].name"),
        ({"inputs": [tensor()], "id": 7}, 400, "id: must be a text"),
        ({"inputs": [tensor()], "parameters": {"classification": 0}}, 400, "classification: received '0'"),
    ],
)
def test_a_request_that_is_not_understood_is_refused(
    running: Running, request_: dict[str, Any], code: int, words: str
) -> None:
    answered = running.post(INFER, request_)
    assert (answered.code, list(answered.json)) == (code, ["error"])
    assert words in answered.json["error"]


@pytest.mark.parametrize("length", ["99999999", "-1", "x", "1" * 5000])
def test_a_wrong_length_of_the_json_is_refused(running: Running, length: str) -> None:
    answered = running.post(INFER, b'{"inputs": []}', Inference_Header_Content_Length=length)
    assert answered.code == 400
    assert "Inference-Header-Content-Length" in answered.json["error"]


@pytest.mark.parametrize("content", [b"\xff\xff\xff\xff" + PHOTOS[0], b"\1\0\0", struct.pack("<I", 9) + b"1234"])
def test_binary_elements_of_wrong_lengths_are_refused(running: Running, content: bytes) -> None:
    head = {"inputs": [tensor(shape=[1], data=None, parameters={"binary_data_size": len(content)})]}
    body, headers = binary(head, content)
    answered = running.post(INFER, body, **headers)
    assert answered.code == 400
    assert "lengths of its elements" in answered.json["error"]
