"""`/metrics`: requests, batches, and answers beside those of the test split."""

from __future__ import annotations

from pathlib import Path

import pytest
from onnx_by_hand import network
from served_images import photo, with_texts
from serving import Running, serving

from kcv.errors import ArtifactError
from kcv.inference.onnx_model import OnnxModel
from kcv.inference.reference import Reference
from kcv.serving.metrics import NoMetrics

parser = pytest.importorskip("prometheus_client.parser", reason="needs prometheus-client, of the extra serve")
REFERENCE = Reference(split="test", confidence=tuple(range(15)), predicted=(10, 0, 30))


def samples(running: Running) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    answered = running.get("/metrics")
    assert answered.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parser.text_string_to_metric_families(answered.body.decode())
        for sample in family.samples
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A model that knows its answers on the test split, and abstains."""
    path = tmp_path / "net.onnx"
    path.write_bytes(with_texts(network(), reference=REFERENCE.to_text(), threshold="0.5"))
    return path


def test_answers_stand_beside_those_of_the_test_split(path: Path) -> None:
    with serving(path) as running:
        rows = [running.post("/predict", photo(seed)).json["predictions"][0] for seed in range(12)]
        running.post("/predict", b"")
        running.get("/none")
        found = samples(running)
        digest = running.service.version().digest
    model = ("model", "net")
    assert found["kcv_requests_total", (("code", "200"), ("route", "predict"))] == 12
    assert found["kcv_requests_total", (("code", "422"), ("route", "predict"))] == 1
    assert found["kcv_requests_total", (("code", "404"), ("route", "none"))] == 1
    assert found["kcv_model_info", (model, ("precision", "float32"), ("version", digest))] == 1
    for name in "abc":
        count = sum(row["likeliest"] == name for row in rows)
        assert found.get(("kcv_predictions_total", (("class", name), model)), 0) == count
    assert found["kcv_unsure_total", (model,)] == sum(row["label"] == "unsure" for row in rows)
    assert found["kcv_confidence_count", (model,)] == 12
    for number in range(1, 16):
        bound = ("le", repr(number / 15))
        below = sum(row["confidence"] <= number / 15 for row in rows)
        assert found["kcv_confidence_bucket", (bound, model)] == below
        assert found["kcv_reference_confidence", (bound, model)] == pytest.approx(sum(range(number)) / 105)
    assert found["kcv_reference_predictions", (("class", "a"), model)] == 0.25
    assert found["kcv_reference_predictions", (("class", "b"), model)] == 0
    assert found["kcv_batch_images_sum", (model,)] == 12
    assert found["kcv_queue_images", ()] == 0


def test_a_reloaded_model_replaces_what_the_old_one_said(path: Path) -> None:
    with serving(path) as running:
        before = running.service.version().digest
        path.write_bytes(with_texts(network(), threshold="0.5"))
        running.service.models["net"].reload()
        running.server.loop.call_soon_threadsafe(running.service.metrics.loaded, running.service.models["net"].version)
        running.get("/ping")
        found = samples(running)
    assert not [name for name, _ in found if name.startswith("kcv_reference")]
    versions = [dict(labels)["version"] for name, labels in found if name == "kcv_model_info"]
    assert len(versions) == 1 and versions != [before]


def test_metrics_say_what_they_need(network_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kcv.serving.server.metrics", NoMetrics)
    with serving(network_file) as running:
        answered = running.get("/metrics")
        assert (answered.code, "pip install 'kcv[serve]'" in answered.json["error"]) == (501, True)
        assert running.post("/predict", photo()).code == 200


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"split": "test", "confidence": [1, -1]}', '{"split": "test", "confidence": [1.5, 1]}',
     '{"split": "\\u001b", "confidence": [1, 1]}', '{"split": "test", "confidence": [1, 1], "predicted": [1]}',
     '{"split": "test", "confidence": ' + str([1] * 1001) + "}"],
)  # fmt: skip
def test_a_damaged_reference_is_refused_like_the_rest_of_a_description(tmp_path: Path, text: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(with_texts(network(), reference=text))
    with pytest.raises(ArtifactError, match=f"^{path}: ") as caught:
        OnnxModel(path)
    assert "\n" not in str(caught.value)


def test_a_reference_comes_from_the_metrics_of_the_test_split() -> None:
    metrics = {
        "split": "test",
        "reliability": [{"low": 0.0, "n": 3}, {"low": 0.5, "n": 9}],
        "per_class": {"a": {"predicted": 4}, "b": {"predicted": 8}},
    }
    found = Reference.from_metrics(metrics)
    assert found == Reference(split="test", confidence=(3, 9), predicted=(4, 8))
    assert found is not None and found.confidence_shares == [0.25, 0.75]
    assert Reference.from_text(found.to_text(), "m.onnx") == found
    del metrics["per_class"]["a"]["predicted"]  # type: ignore[attr-defined]
    assert Reference.from_metrics(metrics) == Reference(split="test", confidence=(3, 9))
    assert Reference.from_metrics({**metrics, "reliability": []}) is None
    assert Reference.from_metrics(None) is None
