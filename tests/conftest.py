"""What all tests share: where real data is, and an environment that the machine's own settings do not reach into."""

from __future__ import annotations

import functools
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from kcv.config import Config

if TYPE_CHECKING:
    from kcv.exporting import Export
    from kcv.training import Run

ROOT = Path(__file__).resolve().parent.parent

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder that holds `cifar10/*.parquet`: KCV_DATA_DIR, or `shared/data` beside the checkout."""
    named = os.environ.get("KCV_DATA_DIR")
    root = Path(named) if named else ROOT.parent / "shared" / "data"
    if not list(root.glob("cifar10/*.parquet")):
        pytest.skip(f"no cifar10/*.parquet in {root}; name its folder in KCV_DATA_DIR")
    return root


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KCV_CACHE_DIR", str(tmp_path / "cache"))
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Puts back what the command line sets for its whole process, where a test calls it in this one."""
    logs = [logging.getLogger(name) for name in (None, "kcv", "mlflow", "alembic", "matplotlib", "PIL", "torch")]
    before = [(log.level, log.propagate, list(log.handlers)) for log in logs]
    yield
    for log, (level, propagate, handlers) in zip(logs, before, strict=True):
        log.setLevel(level)
        log.propagate = propagate
        log.handlers[:] = handlers


@pytest.fixture
def kcv(tmp_path: Path) -> Command:
    """Runs `python -m kcv WORD...` as a person does, in an empty folder, and returns the finished process."""

    def run(*words: str, cwd: Path = tmp_path, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "kcv", *words],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(ROOT), **env},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


def _draw(folder: Path, split: str, per_class: int, seed: int) -> None:
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
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train/, val/ and test/ of three classes."""
    folder = tmp_path_factory.mktemp("pictures")
    for seed, (split, per_class) in enumerate({"train": 30, "val": 8, "test": 8}.items()):
        _draw(folder, split, per_class, seed)
    return folder


@pytest.fixture(scope="session")
def trained_config(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The configuration of `trained_run`."""
    return _quick_config(
        pictures,
        tmp_path_factory.mktemp("runs") / "run",
        epochs=4,
        **{"augment.crop_padding": 1, "model.dropout": 0.1},
    )


@pytest.fixture(scope="session")
def trained_run(trained_config: Config) -> Run:
    """One finished run, for the tests that only look at it."""
    from kcv.training import train

    return train(trained_config)


@pytest.fixture(scope="session")
def exported(trained_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """The run's model as an ONNX file, for the tests that only look at it."""
    from kcv import export

    return export(trained_run.model_path, tmp_path_factory.mktemp("exported") / "model.onnx")


@pytest.fixture
def configure(pictures: Path, tmp_path: Path) -> Callable[..., Config]:
    """Returns a function that makes a configuration for a run of a second or two."""
    return functools.partial(_quick_config, pictures, tmp_path / "run")


def _quick_config(pictures: Path, directory: Path, **overrides: object) -> Config:
    values = {
        "data": str(pictures),
        "epochs": 2,
        "batch_size": 16,
        "lr": 3e-3,
        "precision": "float32",
        "device": "cpu",
        "tracking": "none",
        "output_dir": str(directory),
    }
    return Config.load(**{**values, **overrides})
