"""What all tests share: where real data is, and an environment that the machine's own settings do not reach into."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

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
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
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
