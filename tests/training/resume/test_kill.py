"""Real processes: SIGKILL at random moments, Ctrl-C, SIGTERM; each run goes on and ends as if nothing had happened.

KCV_KILLS says how often the run is killed (a few in the normal test run; `nox -s reliability` kills 20 times).
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from warm import Child, WarmPython

from kcv.inference.opening import load
from kcv.reporting.material import read_history

KILLS = int(os.environ.get("KCV_KILLS", "2"))
TIMED = ("seconds", "images_per_second")

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")

Train = Callable[..., Child]


@pytest.fixture
def process(start: Callable[..., Child]) -> Train:
    """Returns a function that starts `kcv train WORD...` as a process of its own."""
    return lambda *words: start("train", *words, merge=True)


def options(images: Path, folder: Path) -> list[str]:
    return [
        f"--data={images}", f"--output_dir={folder}", "--epochs=16", "--batch_size=16", "--precision=float32",
        "--device=cpu", "--tracking=none", "--model.width=0.125", "--train.checkpoint_seconds=0", "--train.ema=0.9",
        "--train.patience=40", "--model.dropout=0.1", "--augment.crop_padding=1", "--train.plots=false",
    ]  # fmt: skip


def until(condition: Callable[[], Any], running: Child) -> None:
    """Waits until a condition holds or the process has ended."""
    for _ in range(15000):
        if condition() or running.poll() is not None:
            return
        time.sleep(0.02)
    raise AssertionError("nothing happened for five minutes")


def assert_same(first: Path, second: Path) -> None:
    ours, theirs = (load(folder / "model.keras").keras_model.get_weights() for folder in (first, second))
    assert all(np.array_equal(one, other) for one, other in zip(ours, theirs, strict=True))
    rows = [
        [{key: value for key, value in row.items() if key not in TIMED} for row in read_history(folder / "history.csv")]
        for folder in (first, second)
    ]
    assert rows[0] == rows[1]
    assert (first / "metrics.json").read_text() == (second / "metrics.json").read_text()


@pytest.fixture(scope="module")
def whole(images: Path, warm: WarmPython, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody disturbs."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    done = warm.start("kcv", ["train", *options(images, folder)], folder=folder.parent, merge=True).finished()
    assert done.returncode == 0, done.stdout
    return folder


@pytest.mark.full
def test_killed_at_random_moments_it_ends_the_same(whole: Path, images: Path, tmp_path: Path, process: Train) -> None:
    folder, rng, killed = tmp_path / "run", random.Random(7), 0
    words = options(images, folder)
    while killed < KILLS:
        before = set(folder.glob("resume/checkpoint-*.json"))
        running = process(*words)
        until(lambda before=before: set(folder.glob("resume/checkpoint-*.json")) - before, running)
        time.sleep(rng.uniform(0, 8 / max(KILLS, 8)))
        running.send_signal(signal.SIGKILL)
        out, _ = running.communicate()
        assert running.returncode == -signal.SIGKILL, f"it had ended after {killed} kills: {out}"
        killed += 1
        words = [f"--resume={folder}"]
    done = process(*words).finished()
    assert done.returncode == 0, done.stdout
    assert_same(whole, folder)
    assert not [path for path in folder.rglob("*") if path.name.startswith(".")]


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.full)])
def test_signals_finish_the_step_and_say_how_to_go_on(
    number: signal.Signals, whole: Path, images: Path, tmp_path: Path, process: Train
) -> None:
    folder = tmp_path / "my run"
    running = process(*(word for word in options(images, folder) if "checkpoint_seconds" not in word))
    until((folder / "history.csv").is_file, running)
    running.send_signal(number)
    out, _ = running.communicate()
    assert running.returncode == 130
    assert f"to go on: python -m kcv train --resume='{folder}'" in out
    assert "Traceback" not in out
    assert list(folder.glob("resume/checkpoint-*.json"))
    done = process(f"--resume={folder}").finished()
    assert done.returncode == 0, done.stdout
    assert_same(whole, folder)
