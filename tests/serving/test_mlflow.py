"""`/ping` and `/invocations`: the forms that clients of MLflow send."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from served_images import photo
from serving import Running

from kcv import images

PHOTO = photo(3)
B64 = base64.b64encode(PHOTO).decode()


@pytest.fixture(scope="module")
def expected(running: Running) -> dict[str, Any]:
    found: dict[str, Any] = running.post("/predict", PHOTO).json["predictions"][0]
    return found


def test_ping_says_that_the_server_is_ready(running: Running) -> None:
    assert (running.get("/ping").code, running.get("/ping").body) == (200, b"\n")


@pytest.mark.parametrize(
    "sent",
    [
        {"inputs": [B64]},
        {"inputs": {"image": [B64]}},
        {"inputs": [base64.encodebytes(PHOTO).decode()]},
        {"inputs": [f"data:image/png;base64,{B64}"]},
        {"instances": [B64]},
        {"instances": [{"b64": B64}]},
        {"dataframe_records": [{"image": B64}]},
        {"dataframe_records": [{"path": "a.png", "image": B64}]},
        {"dataframe_split": {"columns": ["image"], "data": [[B64]]}},
        {"dataframe_split": {"columns": ["id", "image"], "index": [0], "data": [[7, B64]]}},
        {"inputs": [images.decode(PHOTO).tolist()]},
    ],
    ids=lambda sent: str(sent)[:40],
)
def test_each_form_gets_what_predict_says(running: Running, expected: dict[str, Any], sent: dict[str, Any]) -> None:
    answered = running.post("/invocations", sent)
    assert answered.code == 200, answered.body
    (row,) = answered.json["predictions"]
    assert row["label"] == expected["label"]
    assert row["confidence"] == pytest.approx(expected["confidence"], abs=1e-6)


def test_params_rank_classes(running: Running) -> None:
    answered = running.post("/invocations", {"inputs": [B64, B64], "params": {"top_k": 2}})
    assert [len(row["top"]) for row in answered.json["predictions"]] == [2, 2]


@pytest.mark.parametrize(
    ("sent", "code", "words"),
    [
        ({}, 400, "must hold one of inputs, instances"),
        ({"inputs": [B64], "instances": [B64]}, 400, "must hold one of"),
        ({"inputs": []}, 400, "holds 0 images"),
        ({"inputs": B64}, 400, "must be a list of images"),
        ({"inputs": [B64], "params": {"temperature": 1}}, 400, "unknown parameter 'temperature'"),
        ({"inputs": [[[1, 2], [3]]]}, 400, "inputs[0]: the rows differ in length"),
        ({"inputs": ["AAAA"]}, 415, "not an image in a known format"),
        ({"inputs": [None]}, 400, "inputs[0]: an image must be text in base64"),
        ({"dataframe_records": [{}]}, 400, "dataframe_records[0]: is empty"),
        ({"dataframe_split": {"columns": ["image"]}}, 400, "dataframe_split: has no data"),
    ],
)
def test_what_is_not_understood_is_refused_in_the_words_of_mlflow(
    running: Running, sent: dict[str, Any], code: int, words: str
) -> None:
    answered = running.post("/invocations", sent)
    assert answered.code == code
    assert answered.json["error_code"] == "BAD_REQUEST"
    assert words in answered.json["message"]


def test_csv_is_refused_with_a_reason(running: Running) -> None:
    answered = running.post("/invocations", b"image\nabc\n", Content_Type="text/csv")
    assert (answered.code, "application/json" in answered.json["message"]) == (415, True)
