"""What `POST /predict` answers: the same as `kcv predict`, whatever the batch."""

from __future__ import annotations

import base64
import importlib.util
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from onnx_by_hand import network
from served_images import form, photo, with_texts
from serving import Answered, Running, serving

from kcv import predict
from kcv.metrics.conformal import PredictionSets

PHOTOS = [photo(seed, (20 + 3 * seed, 40), form) for seed, form in enumerate(["PNG", "JPEG", "BMP", "GIF"] * 6)]
needs_forms = pytest.mark.skipif(
    importlib.util.find_spec("python_multipart") is None, reason="needs python-multipart, of the extra serve"
)


@pytest.fixture(scope="module")
def rows(network_file: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What `kcv predict` says about `PHOTOS`."""
    folder = tmp_path_factory.mktemp("photos")
    paths = []
    for number, content in enumerate(PHOTOS):
        paths.append(folder / f"{number:02}.png")  # the bytes decide about the format
        paths[-1].write_bytes(content)
    return list(predict(paths, network_file, top_k=3))


def check(found: dict[str, Any], row: dict[str, Any]) -> None:
    assert found["label"] == row["label"]
    assert found["confidence"] == pytest.approx(row["confidence"], abs=1e-5)
    labels = [row["label"], row["label_2"], row["label_3"]]
    assert {one["label"]: one["confidence"] for one in found["top"]} == pytest.approx(row["probabilities"], abs=1e-5)
    assert [one["label"] for one in found["top"]] == labels


def test_one_image_gets_what_predict_says(running: Running, rows: list[dict[str, Any]]) -> None:
    for content, row in zip(PHOTOS[:6], rows, strict=False):
        answered = running.post("/predict", content, Content_Type="image/png")
        assert answered.code == 200
        assert answered.json["model"] == "net"
        check(answered.json["predictions"][0], row)


def test_images_that_meet_in_a_batch_get_what_predict_says(running: Running, rows: list[dict[str, Any]]) -> None:
    with ThreadPoolExecutor(24) as pool:
        found = list(pool.map(lambda content: running.post("/predict", content), PHOTOS * 4))
    for answered, row in zip(found, rows * 4, strict=True):
        check(answered.json["predictions"][0], row)


@needs_forms
def test_a_form_holds_several_images(running: Running, rows: list[dict[str, Any]]) -> None:
    body, kind = form([(f"{number}.png", content) for number, content in enumerate(PHOTOS)])
    found = running.post("/predict", body, Content_Type=kind).json["predictions"]
    assert [one["name"] for one in found] == [f"{number}.png" for number in range(len(PHOTOS))]
    for one, row in zip(found, rows, strict=True):
        check(one, row)


@needs_forms
def test_an_image_of_several_that_cannot_be_read_leaves_the_others(running: Running) -> None:
    body, kind = form(
        [("good.png", PHOTOS[0]), ("cut\x1b[31m.png", PHOTOS[0][:99]), ("text.png", b"no image at all, is it?")]
    )
    answered = running.post("/predict", body, Content_Type=kind)
    good, cut, text = answered.json["predictions"]
    assert answered.code == 200
    assert good["label"] in ("a", "b", "c")
    assert (cut["code"], text["code"]) == (422, 415)
    assert "cannot be read as an image" in cut["error"]
    assert "\x1b" not in cut["name"]


def test_the_raw_route_needs_no_extra_and_forms_say_what_they_need(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("starlette.formparsers.multipart", None)
    body, kind = form([("a.png", PHOTOS[0])])
    refused = running.post("/predict", body, Content_Type=kind)
    assert (refused.code, "pip install 'kcv[serve]'" in refused.json["error"]) == (415, True)
    assert running.post("/predict", PHOTOS[0]).code == 200


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (b"", 422, "the file is empty"),
        (b"just some text that is long enough", 415, "not an image in a known format"),
        (PHOTOS[0][:120], 422, "cannot be read as an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "not an image in a known format"),
    ],
)
def test_an_image_that_cannot_be_read_is_refused_in_one_line(
    running: Running, content: bytes, code: int, words: str
) -> None:
    answered = running.post("/predict", content)
    assert answered.code == code
    assert words in answered.json["error"]
    assert "\n" not in answered.json["error"]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("top_k=0", "top_k: received '0', allowed: a whole number"),
        ("top_k=many", "top_k: received 'many'"),
        ("topk=3", "unknown parameter 'topk'; allowed: top_k, model"),
    ],
)
def test_a_query_that_is_not_understood_is_refused(running: Running, query: str, words: str) -> None:
    answered = running.post(f"/predict?{query}", PHOTOS[0])
    assert answered.code == 400
    assert words in answered.json["error"]


def test_top_k_ranks_no_more_classes_than_there_are(running: Running) -> None:
    for asked, count in ((1, 1), (2, 2), (99, 3)):
        top = running.post(f"/predict?top_k={asked}", PHOTOS[0]).json["predictions"][0]["top"]
        assert len(top) == count


def test_json_is_no_image(running: Running) -> None:
    answered = running.post("/predict", {"image": base64.b64encode(PHOTOS[0]).decode()})
    assert answered.code == 415
    assert "send the bytes of an image" in answered.json["error"]


def test_below_the_threshold_the_label_is_unsure_as_predict_says(tmp_path: Path) -> None:
    path, image = tmp_path / "careful.onnx", tmp_path / "a.png"
    path.write_bytes(with_texts(network(), threshold="0.999999"))
    image.write_bytes(PHOTOS[0])
    (row,) = predict(image, path)
    assert row["label"] == "unsure"
    with serving(path) as running:
        (found,) = running.post("/predict", PHOTOS[0]).json["predictions"]
    assert (found["label"], found["likeliest"]) == ("unsure", row["likeliest"])
    assert found["confidence"] == pytest.approx(row["confidence"], abs=1e-5)


def test_a_model_with_sets_answers_with_the_set_of_each_image_as_predict_does(tmp_path: Path) -> None:
    path, image = tmp_path / "sets.onnx", tmp_path / "a.png"
    image.write_bytes(PHOTOS[0])
    path.write_bytes(network())
    (plain,) = predict(image, path)
    ranked = [plain["label"], plain["label_2"], plain["label_3"]]
    for least in (1.0, plain["confidence_2"], 0.0):
        sets = PredictionSets(wanted_coverage=0.9, least=least, images=40)
        path.write_bytes(with_texts(network(), prediction_sets=sets.to_text()))
        (row,) = predict(image, path)
        with serving(path) as running:
            (found,) = running.post("/predict", PHOTOS[0]).json["predictions"]
        inside = [name for name in ranked if name == ranked[0] or plain["probabilities"][name] >= least]
        assert found["prediction_set"] == row["prediction_set"] == inside
    assert "prediction_set" not in plain


def test_several_models_answer_under_their_names(network_file: Path, tmp_path: Path) -> None:
    other = tmp_path / "birds" / "model.onnx"
    other.parent.mkdir()
    other.write_bytes(with_texts(network(), class_names='["crow", "duck", "wren"]'))

    def label(answered: Answered) -> str:
        return str(answered.json["predictions"][0]["label"])

    with serving(f"letters={network_file}", other) as running:
        assert label(running.post("/predict", PHOTOS[0])) in "abc"
        assert label(running.post("/predict?model=birds", PHOTOS[0])) in ("crow", "duck", "wren")
        refused = running.post("/predict?model=fish", PHOTOS[0])
        assert (refused.code, "no model 'fish'; there are letters, birds" in refused.json["error"]) == (404, True)
        with ThreadPoolExecutor(8) as pool:
            asked = [f"/predict?model={name}" for name in ("letters", "birds") * 20]
            found = list(pool.map(lambda path: label(running.post(path, PHOTOS[1])), asked))
    assert set(found[::2]) <= set("abc")
    assert set(found[1::2]) <= {"crow", "duck", "wren"}
