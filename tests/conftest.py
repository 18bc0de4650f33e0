"""What all tests share: where real data is, toys that are trained once, and an environment of their own."""

from __future__ import annotations

import functools
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if "PYTEST_XDIST_WORKER" in os.environ:
    # Several workers with as many threads each would only get in each other's way. Read when torch is first imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from kept_graphs import keeping
from PIL import Image
from warm import PATIENCE, Child, Finished, WarmPython
from workers import made_once, turn

from kcv.common.cores import usable_cores
from kcv.config import Config

if TYPE_CHECKING:
    from kcv.tasks.export import Export
    from kcv.training.run_folder import Run

ROOT = Path(__file__).resolve().parent.parent
MOST_WORKERS = 4  # each takes 1 to 2 GB
LONGEST = (
    "tuning/test_session.py", "test_resume.py", "test_readme.py", "distributed/test_training.py", "test_kill.py",
    "training/test_transfer.py", "exporting/test_graph.py", "training/test_faults.py",
    "distributed/test_measuring.py", "exporting/test_export.py", "tasks/test_train.py", "cli/test_verbs.py",
    "models/test_weights.py", "models/test_transfer.py", "tasks/test_evaluate.py", "native/test_parity.py",
    "test_compare.py", "test_memory.py", "test_train_folds.py", "tracking/test_server.py",
)  # fmt: skip

Command = Callable[..., Finished]
Starter = Callable[..., Child]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="also run the tests marked `full`: the complete set")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Returns a worker more than cores, as many wait for a child; none for a file or two, done before they start."""
    if os.name == "nt":
        return 0
    named = [Path(word.partition("::")[0]) for word in config.args]
    if len(named) <= 2 and all(path.is_file() for path in named):
        return 0
    cores = usable_cores()
    return min(cores + 1, MOST_WORKERS) if cores > 1 else 0


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # Workers take whole files: with the longest first, none is left alone with one at the end.
    items.sort(key=lambda item: next((n for n, name in enumerate(LONGEST) if name in str(item.path)), len(LONGEST)))
    skipped = {"full", "long"}
    if config.getoption("--full"):
        skipped = set() if os.environ.get("KCV_LONG") == "1" else {"long"}
    left_out = [item for item in items if any(mark.name in skipped for mark in item.iter_markers())]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Gives the tests marked `serial` the machine to themselves."""
    with turn(_shared(item.config), alone=item.get_closest_marker("serial") is not None):
        return (yield)


def _shared(config: pytest.Config) -> Path:
    """A folder that all workers of this run have in common."""
    own = config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


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
    own = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID", "NO_COLOR", "FORCE_COLOR", "COLUMNS")
    for name in own:  # pytest-xdist sets COLUMNS
        monkeypatch.delenv(name, raising=False)
    # It guards against power cuts, which no test makes, and takes a fifth of the time of a small training.
    monkeypatch.setattr(os, "fsync", lambda handle: None)


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


@pytest.fixture(scope="session")
def warm(shared: Path) -> Iterator[WarmPython]:
    """Starts processes that have Keras loaded already."""
    if sys.platform != "linux":
        pytest.skip("needs sockets that pass open files as Linux has them")
    python = WarmPython(shared)
    yield python
    python.close()


@pytest.fixture
def start(warm: WarmPython, tmp_path: Path) -> Iterator[Starter]:
    """Returns a function that starts `python -m kcv WORD...` in an empty folder; what runs at the end is killed."""
    running: list[Child] = []

    def start(*words: object, cwd: Path = tmp_path, program: str = "kcv", **options: Any) -> Child:
        running.append(warm.start(program, words, folder=cwd, **options))
        return running[-1]

    yield start
    for child in running:
        child.kill()


@pytest.fixture
def kcv(start: Starter) -> Command:
    """Runs `python -m kcv WORD...` as a person does, in an empty folder, and returns the finished process."""

    def run(*words: object, **options: Any) -> Finished:
        return start(*words, **options).finished()

    return run


@pytest.fixture
def cold_kcv(tmp_path: Path) -> Command:
    """Starts `python -m kcv WORD...` from nothing: for what the start itself shows."""

    def run(*words: str, **env: str) -> Finished:
        return subprocess.run(
            [sys.executable, "-m", "kcv", *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), **env},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    return run


def _draw(folder: Path, split: str, per_class: int, seed: int) -> None:
    """Writes noisy 16 px images of three classes: bright left half, bright top half, bright centre."""
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
def shared(request: pytest.FixtureRequest) -> Path:
    """A folder that all workers of this run have in common."""
    return _shared(request.config)


@pytest.fixture(scope="session")
def images(shared: Path) -> Path:
    """A folder with train/, val/ and test/ of three classes."""

    def draw() -> Path:
        for seed, (split, per_class) in enumerate({"train": 30, "val": 8, "test": 8}.items()):
            _draw(shared / "images", split, per_class, seed)
        return shared / "images"

    return made_once(shared, "drawn", draw)


@pytest.fixture(scope="session")
def trained_config(images: Path, shared: Path) -> Config:
    """The configuration of `trained_run`."""
    return _quick_config(
        images,
        shared / "runs" / "run",
        epochs=4,
        **{"augment.crop_padding": 1, "model.dropout": 0.1, "model.width": 0.5, "train.plots": True},
    )


@pytest.fixture(scope="session")
def trained_run(trained_config: Config, shared: Path) -> Run:
    """One finished run, for the tests that only look at it."""
    from kcv.tasks.train import train

    return made_once(shared, "trained", lambda: train(trained_config))


@pytest.fixture(scope="session")
def undisturbed(images: Path, shared: Path) -> Run:
    """The run of `configure()` that nothing disturbs, to compare those with that something did."""
    from kcv.tasks.train import train

    config = _quick_config(images, shared / "runs" / "undisturbed")
    return made_once(shared, "undisturbed", lambda: train(config))


@pytest.fixture(scope="session")
def exported(trained_run: Run, shared: Path) -> Export:
    """The run's model as an ONNX file, for the tests that only look at it."""
    from kcv import export

    with keeping(shared):
        return made_once(shared, "exported", lambda: export(trained_run.model_path, shared / "exported" / "model.onnx"))


@pytest.fixture
def kept_graphs(shared: Path) -> Iterator[None]:
    """Gives `export` the graph that it, or another worker, has written before for the same model and description."""
    with keeping(shared):
        yield


@pytest.fixture
def configure(images: Path, tmp_path: Path) -> Callable[..., Config]:
    """Returns a function that makes a configuration for a run of a second or two."""
    return functools.partial(_quick_config, images, tmp_path / "run")


def _quick_config(images: Path, directory: Path, **overrides: object) -> Config:
    values = {
        "data": str(images),
        "model": "custom_cnn",
        "epochs": 2,
        "batch_size": 16,
        "lr": 3e-3,
        "precision": "float32",
        "device": "cpu",
        "tracking": "none",
        "output_dir": str(directory),
        "train.plots": False,  # half of the time of such a run, and few tests look at them
    }
    if overrides.get("model", "custom_cnn") == "custom_cnn":
        values["model.width"] = 0.25
    return Config.load(**{**values, **overrides})
