"""The verbs as a person runs them, on a real run: what is printed where, and the exit codes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kcv.cli import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(trained_run, tmp_path):
    """A copy of a finished run beside an empty working folder."""
    folder = tmp_path / "runs" / "mine"
    shutil.copytree(trained_run.directory, folder)
    return folder


def test_train_leaves_a_run_and_says_what_to_do_next(kcv, images, tmp_path):
    done = kcv(
        "train", f"--data={images}", "--epochs=1", "--batch_size=16", "--precision=float32", "--device=cpu",
        "--tracking=none", "--output_dir=out",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "model.keras").is_file()
    assert "test accuracy" in done.stdout
    assert "kcv evaluate out/model.keras" in done.stdout
    lines = done.stderr.splitlines()
    assert any(line.startswith("epoch 1/1  loss ") for line in lines)
    assert any("float32: as asked" in line for line in lines)
    assert "Warning" not in done.stderr
    again = kcv("train", f"--data={images}", "--tracking=none", "--output_dir=out")
    assert again.returncode == 2
    assert again.stderr.splitlines()[-1].startswith("kcv: error: out already holds a run")


@pytest.mark.full
def test_train_again_from_the_config_that_a_run_wrote(kcv, run, tmp_path):
    done = kcv("train", str(run / "config.yaml"), "--output_dir=again", "--epochs=2", "--format=json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["metrics"]["split"] == "test"
    assert result["model"] == "again/model.keras"


def test_evaluate_prints_the_table_and_the_same_figures_as_json(kcv, run):
    text = kcv("evaluate", str(run))
    assert text.returncode == 0, text.stderr
    for word in ("precision", "centre", "test accuracy", "95% interval", "ROC AUC"):
        assert word in text.stdout
    assert text.stderr == ""
    result = json.loads(kcv("evaluate", str(run / "model.keras"), "--format=json").stdout)
    stored = json.loads((run / "metrics.json").read_text())
    assert {key: result[key] for key in stored} == stored


def test_predict_one_image_shows_its_ranking(kcv, run, images):
    done = kcv("predict", str(images / "test" / "left" / "000.png"), f"--model={run}")
    assert done.returncode == 0, done.stderr
    first, *ranking = done.stdout.splitlines()
    assert " left " in first
    assert ranking[0].split()[0] == "left"
    assert len(ranking) == 3


def test_predict_many_with_a_bad_one_among_them(kcv, run, images, tmp_path):
    folder = tmp_path / "new"
    shutil.copytree(images / "test", folder)
    (folder / "bad.jpg").write_bytes(b"\xff\xd8\xff")
    done = kcv("predict", "new", "--recursive", f"--model={run}", "--output=rows.csv")
    assert done.returncode == 2
    assert "kcv: error: 1 image could not be read" in done.stderr
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 26


def test_predict_as_json_lines(kcv, run, images):
    done = kcv("predict", str(images / "test" / "top"), f"--model={run}", "--format=json", "--top_k=2")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 8
    assert all(row["label"] == "top" and row["label_2"] in ("left", "centre") for row in rows)


def test_info_needs_no_keras_and_says_what_is_in_the_file(kcv, run):
    done = kcv("info", str(run))
    assert done.returncode == 0
    for word in ("custom_cnn", "centre, left, top", "16x16", "test accuracy"):
        assert word in done.stdout


@pytest.mark.usefixtures("kept_graphs")
def test_export_writes_the_file_that_predict_and_info_take(kcv, run, images, capsys):
    assert main(["export", str(run)]) == 0
    done = capsys.readouterr()
    assert done.err == ""
    for word in ("model.onnx", "float32, opset 20", "24 validation images", "differ by up to", "100.00%", "Next:"):
        assert word in done.out
    image = str(images / "test" / "left" / "000.png")
    model = str(run / "model.onnx")
    answers = [kcv("predict", image, f"--model={one}").stdout for one in (run, model)]
    assert answers[0].splitlines()[1].split()[0] == answers[1].splitlines()[1].split()[0] == "left"
    card = kcv("info", model)
    assert card.returncode == 0, card.stderr
    for word in ("custom_cnn, ONNX, float32", "centre, left, top", "16x16 RGB"):
        assert word in card.stdout
    assert json.loads(kcv("info", model, "--format=json").stdout)["class_names"] == ["centre", "left", "top"]


def test_predict_reads_a_list_from_standard_input(kcv, exported, images, tmp_path):
    files = sorted((images / "test").rglob("*.png"))
    (tmp_path / "listed").write_bytes("\0".join([*map(str, files), "gone.png"]).encode())
    with (tmp_path / "listed").open("rb") as listed:
        done = kcv("predict", "-", f"--model={exported.path}", "--format=json", stdin=listed.fileno())
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["path"] for row in rows] == [*map(str, files), "gone.png"]
    assert [bool(row["error"]) for row in rows] == [False] * 24 + [True]
    assert done.returncode == 2
    empty = kcv("predict", "-", f"--model={exported.path}")
    assert (empty.returncode, empty.stderr) == (2, "kcv: error: no images were named.\n")


@pytest.mark.serial
def test_a_cold_prediction_on_onnx_takes_little_more_than_what_it_imports(exported, images):
    script = (
        "import resource, subprocess, sys, time; began = time.perf_counter(); "
        "subprocess.run(sys.argv[1:], check=True, capture_output=True); "
        "print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    image = str(images / "test" / "left" / "000.png")
    predict = ["-m", "kcv", "predict", image, f"--model={exported.path}"]
    imports = ["-c", "import numpy, onnxruntime, PIL.Image"]
    taken = {"predict": [], "imports": []}
    for _ in range(3):
        for name, words in (("predict", predict), ("imports", imports)):
            command = [sys.executable, "-c", script, sys.executable, *words]
            done = subprocess.run(
                command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
            )
            taken[name].append([float(word) for word in done.stdout.split()])
    seconds, kilobytes = min(taken["predict"])
    assert seconds < 4 * min(taken["imports"])[0]
    if sys.platform == "linux":  # elsewhere it counts in other units
        assert kilobytes < 200_000
