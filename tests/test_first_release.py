"""Files that kcv 0.1.0 wrote still open: a model file, its ONNX file, a run folder, a configuration.

The run is a toy: a network of 122 parameters in place of the trained one, so that the files are small.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kcv import Config, OnnxModel, compare, evaluate, load_model, predict, report
from kcv.artifact import read_info
from kcv.cli import main

WRITTEN = Path(__file__).with_name("first_release") / "run"
IMAGE = (np.arange(16 * 16 * 3) % 256).astype(np.uint8).reshape(1, 16, 16, 3)
ANSWER = [0.49968674778938293, 0.5003132820129395]  # what 0.1.0 said of it


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(WRITTEN, tmp_path / "run"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 4)):
        for name, level in (("bright", 200), ("dark", 40)):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(rng.normal(level, 25, (16, 16, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "photos"


@pytest.mark.parametrize("name", ["model.keras", "model.onnx"])
def test_a_model_file_gives_the_probabilities_of_then(name: str) -> None:
    model = load_model(WRITTEN / name) if name.endswith(".keras") else OnnxModel(WRITTEN / name)
    assert model.class_names == ("bright", "dark")
    np.testing.assert_allclose(model.predict(IMAGE), [ANSWER], atol=1e-6)


def test_a_model_file_says_what_it_said() -> None:
    info = read_info(WRITTEN / "model.keras")
    assert (info.versions["kcv"], info.model_name, info.image_size) == ("0.1.0", "custom_cnn", 16)
    assert info.calibration is not None and info.calibration.pictures == 8


def test_a_run_folder_is_measured_compared_and_reported(run: Path, photos: Path) -> None:
    figures = evaluate(run / "model.keras", data=str(photos), plots=False).metrics
    assert figures["n"] == 8
    other = shutil.copytree(run, run.parent / "other")
    assert len(compare([run, other], str(photos)).rows) == 2
    made = report(run)
    assert "bright" in made.page.read_text(encoding="utf-8")
    rows = list(predict([photos / "test"], run / "model.onnx", recursive=True))
    assert [row["error"] for row in rows] == [""] * 8


def test_its_configuration_is_read(run: Path, photos: Path, tmp_path: Path) -> None:
    config = Config.load(run / "config.yaml")
    assert (config.model.name, config.optim.lr, config.train.epochs) == ("custom_cnn", 0.002, 2)
    words = [f"--data={photos}", f"--output_dir={tmp_path / 'again'}", "--epochs=1", "--train.plots=false"]
    assert main(["train", str(run / "config.yaml"), *words]) == 0
