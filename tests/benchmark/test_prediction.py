from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from kcv.benchmark import benchmark_prediction, prediction
from kcv.benchmark.candidates import Setting
from kcv.cli.render.benchmark import prediction_benchmark
from kcv.errors import UsageError
from kcv.exporting import formats
from kcv.exporting.formats import Format, Source

KEYS = {
    "model",
    "runtime",
    "precision",
    "batch_size",
    "p50_ms",
    "p95_ms",
    "images_per_second",
    "cold_start_s",
    "bytes",
}
"""What other programs read."""


def test_each_candidate_has_a_row_for_each_batch_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(bytes(100))
    command = (sys.executable, "-c", "")
    candidates = [prediction._Candidate(name, "float32", len, file, command) for name in ("kcv-onnx", "torch")]
    monkeypatch.setattr(prediction, "_candidates", lambda setting, folder: candidates)
    monkeypatch.setattr(prediction, "PAUSE", 0.0)
    rows = benchmark_prediction(model="custom_cnn", image_size=16, repeats=1)
    assert [(row["runtime"], row["batch_size"]) for row in rows] == [
        ("kcv-onnx", 1), ("torch", 1), ("kcv-onnx", 32), ("torch", 32),
    ]  # fmt: skip
    for row in rows:
        assert row.keys() >= KEYS
        assert 0 < row["p50_ms"] <= row["p95_ms"] and row["cold_start_s"] > 0
        assert (row["bytes"], row["image_size"], row["model"]) == (100, 16, "custom_cnn")


def test_formats_that_predict_runs_are_measured_where_they_are_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def write(source: Source, path: Path) -> tuple[str, ...]:
        assert source.model is None and source.info.image_size == 16
        path.write_bytes(bytes(10))
        path.with_suffix(".bin").write_bytes(bytes(100))
        return (".bin",)

    def refuse() -> None:
        raise UsageError("not here")

    opened = SimpleNamespace(compute=len)
    known = [
        Format("onnx", "ONNX", ".onnx", write, lambda path: opened),
        Format("pair", "Pair", ".xml", write, lambda path: opened),
        Format("absent", "Absent", ".no", write, lambda path: opened, refuse),
        Format("only described", "Other", ".pt2", write, lambda path: opened, next="info {}"),
    ]
    monkeypatch.setattr(formats, "names", lambda: tuple(format.name for format in known))
    monkeypatch.setattr(formats, "find", lambda name: next(format for format in known if format.name == name))
    setting = Setting("custom_cnn", 16, 2, "float32", "cpu")
    (one,) = prediction._in_other_formats(None, setting, tmp_path, ("kcv", "predict"))
    assert (one.runtime, one.file, one.run) == ("kcv-pair", tmp_path / "kcv.bin", len)
    assert one.command == ("kcv", "predict", f"--model={tmp_path / 'kcv.xml'}")


@pytest.mark.long
@pytest.mark.serial
def test_rows_say_how_fast_each_way_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction, "_COLD_STARTS", 1)
    rows = benchmark_prediction(model="custom_cnn", repeats=1)
    assert json.loads(json.dumps(rows)) == rows
    runtimes = [("kcv-onnx", "float32"), ("kcv-onnx", "int8"), ("kcv-keras", "float32")]
    if find_spec("openvino"):
        runtimes.insert(2, ("kcv-openvino", "float32"))
    runtimes += [("torch", "float32"), ("torch-onnx", "float32")]
    assert [(row["runtime"], row["precision"], row["batch_size"]) for row in rows] == [
        (*one, size) for size in (1, 32) for one in runtimes
    ]
    for row in rows:
        assert row.keys() >= KEYS
        assert 0 < row["p50_ms"] <= row["p95_ms"]
        assert row["images_per_second"] == pytest.approx(row["batch_size"] / row["p50_ms"] * 1e3)
        assert row["bytes"] > 1e6 and (row["image_size"], row["model"]) == (32, "custom_cnn")
    cold = {row["runtime"]: row["cold_start_s"] for row in rows}
    assert 0 < cold["kcv-onnx"] < cold["kcv-keras"]
    sizes = {row["precision"]: row["bytes"] for row in rows if row["runtime"] == "kcv-onnx"}
    assert sizes["int8"] < 0.4 * sizes["float32"]
    lines = prediction_benchmark(rows).splitlines()
    assert len(lines) == 1 + len(rows) + 4
    assert max(map(len, lines)) <= 120
