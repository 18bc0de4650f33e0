from __future__ import annotations

import json

import pytest

from kcv.cli import main

ROW = {
    "model": "custom_cnn", "image_size": 32, "batch_size": 2, "precision": "float32", "device": "cpu",
    "hardware": "a processor", "threads": 2, "repeats": 1,
    "images_per_second": {"torch": 40.0, "keras": 20.0, "kcv": 42.0}, "kcv_over_torch": 1.05, "kcv_over_keras": 2.1,
    "peak_fraction": 0.25, "matrix_gflop_per_second": 100.0,
}  # fmt: skip
"""Of what `benchmark_training` gives (tests/benchmark), what the table shows."""


def test_training_steps_as_a_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}
    monkeypatch.setattr("kcv.benchmark.benchmark_training", lambda **options: asked.update(options) or [ROW])
    command = ["benchmark", "train", "--model=custom_cnn", "--batch_size=2", "--precision=float32", "--repeats=1"]
    assert main([*command, "--device=cpu"]) == 0
    assert asked.items() >= {"model": "custom_cnn", "batch_size": 2, "precision": "float32", "repeats": 1}.items()
    lines = capsys.readouterr().out.splitlines()
    for word in ("model", "PyTorch/s", "Keras/s", "kcv/s", "kcv:PyTorch", "kcv:Keras", "peak"):
        assert word in lines[0]
    assert lines[1].split()[:4] == ["custom_cnn", "32", "2", "float32"]
    assert "GFLOP/s" in lines[-1]
    assert max(map(len, lines)) <= 120


def test_images_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "data", "--batch_size=4", "--repeats=1", "--device=cpu", "--format=json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["step"] for row in rows][:3] == ["decode", "decode photos", "augment"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["benchmark"], "benchmark needs WHAT"),
        (["benchmark", "trian"], "allowed: train, predict, serve, data, memory, scaling. Did you mean 'train'?"),
        (["benchmark", "train", "data"], "but not 'data' as well"),
        (["benchmark", "train", "--model=resnet"], "allowed: custom_cnn, convnext_small, resnet101, "),
        (["benchmark", "train", "--precision=int8"], "allowed: auto, float32, mixed_bfloat16, mixed_float16"),
        (["benchmark", "train", "--image_size=8"], "a whole number from 16"),
        (["benchmark", "train", "--repeats=0"], "a whole number from 1"),
        (["benchmark", "data", "--model=resnet50"], "no --model; benchmark train, predict, serve and scaling have."),
        (["benchmark", "data", "--precision=float32"], "no --precision; benchmark train and scaling have."),
        (["benchmark", "predict", "--batch_size=8"], "benchmark predict has no --batch_size"),
        (["benchmark", "predict", "--device=cpu"], "no --device; benchmark train, data and scaling have"),
        (["benchmark", "train", "--images=5000"], "benchmark train has no --images; benchmark memory has."),
        (["benchmark", "memory", "--repeats=3"], "benchmark memory has no --repeats"),
        (["benchmark", "scaling"], "needs several processes: torchrun --nproc-per-node=2 -m kcv benchmark"),
        (["benchmark", "train", "--precision=mixed_float16", "--device=cpu"], "needs a GPU"),
    ],
)
def test_bad_input_is_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert said in line
