"""The exported file in other hands: the ten lines of the guide, and the JavaScript of docs/node."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from kcv import predict

if TYPE_CHECKING:
    from kcv.tasks.export import Export

ROOT = Path(__file__).resolve().parent.parent
NODE = ROOT / "docs" / "node"


@pytest.fixture
def folder(exported: Export, images: Path, tmp_path: Path) -> Path:
    """A folder with model.onnx, photo.jpg (large, upright) and small.png (at the model's size)."""
    shutil.copy(exported.path, tmp_path / "model.onnx")
    image = Image.open(images / "test" / "left" / "000.png")
    image.save(tmp_path / "small.png")
    image.resize((300, 200), Image.Resampling.BICUBIC).save(tmp_path / "photo.jpg", quality=95)
    return tmp_path


def test_the_lines_of_the_guide_say_what_predict_says(folder: Path) -> None:
    section = (ROOT / "docs" / "guides" / "deploy.md").read_text(encoding="utf-8")
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found
    assert len([line for line in found[1].splitlines() if line]) <= 11
    done = subprocess.run([sys.executable, "-c", found[1]], cwd=folder, capture_output=True, text=True, check=True)
    (row,) = predict(folder / "photo.jpg", folder / "model.onnx")
    label, confidence = done.stdout.split()
    assert label == row["label"]  # which need not be right: no image of the training was as smooth
    # Their decoder reads the whole JPEG, ours a reduced one.
    assert float(confidence) == pytest.approx(row["confidence"], abs=0.02)


def test_node_says_what_predict_says(folder: Path) -> None:
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    if not (NODE / "node_modules" / "onnxruntime-node").is_dir():
        pytest.skip("docs/node is not installed: nox -s node")
    script = NODE / "predict.mjs"
    done = subprocess.run(
        ["node", str(script), "model.onnx", "small.png", "photo.jpg"],
        cwd=folder, env={**os.environ, "NODE_NO_WARNINGS": "1"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    ours = list(predict([folder / "small.png", folder / "photo.jpg"], folder / "model.onnx"))
    assert [row["label"] for row in rows] == [row["label"] for row in ours]
    assert rows[0]["probabilities"] == pytest.approx(list(ours[0]["probabilities"].values()), abs=1e-5)
    # sharp resizes by another arithmetic.
    assert rows[1]["confidence"] == pytest.approx(ours[1]["confidence"], abs=0.02)
