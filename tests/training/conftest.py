"""A small folder of pictures that a network can learn in seconds."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kcv.config import Config


def draw(folder: Path, split: str, per_class: int, seed: int) -> None:
    """Writes noisy 16 px pictures of three classes: bright left half, bright top half, bright centre."""
    rng = np.random.default_rng(seed)
    shapes = {
        "centre": np.s_[5:11, 5:11],
        "left": np.s_[:, :8],
        "top": np.s_[:8, :],
    }
    for name, region in shapes.items():
        (folder / split / name).mkdir(parents=True)
        for number in range(per_class):
            pixels = rng.integers(0, 140, (16, 16, 3), dtype=np.uint8)
            pixels[region] += 90
            Image.fromarray(pixels).save(folder / split / name / f"{number:03}.png")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """A folder with train/, val/ and test/ of three classes."""
    folder = tmp_path_factory.mktemp("pictures")
    for seed, (split, per_class) in enumerate({"train": 30, "val": 8, "test": 8}.items()):
        draw(folder, split, per_class, seed)
    return folder


@pytest.fixture
def configure(pictures: Path, tmp_path: Path) -> Callable[..., Config]:
    """Returns a function that makes a configuration for a run of a second or two."""

    def make(**overrides: object) -> Config:
        values = {
            "data": str(pictures),
            "epochs": 2,
            "batch_size": 16,
            "lr": 3e-3,
            "precision": "float32",
            "device": "cpu",
            "tracking": "none",
            "output_dir": str(tmp_path / "run"),
            **overrides,
        }
        return Config.load(**values)

    return make
