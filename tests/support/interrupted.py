"""Trainings that are stopped in the middle, as by Ctrl-C or by a kill, and how to tell that they went on."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import keras
import numpy as np
import pytest
import torch

from kcv.config import Config
from kcv.inference.opening import load
from kcv.training.callbacks.checkpoint import Checkpoint
from kcv.training.run_folder import Run

Configure = Callable[..., Config]


@contextmanager
def stopped_at(epoch: int, step: int, how: str = "ask") -> Iterator[None]:
    """Lets the next training in the block stop at a step: as Ctrl-C does, or as a killed process does."""
    consider = Checkpoint._consider

    def stop(self: Checkpoint, at: int) -> None:
        here = (self._epoch, at) == (epoch, step)
        if here and how == "ask":
            self._stop_request.requested = True
        consider(self, at)
        if here:
            assert self._writer is not None
            self._writer.wait()
            raise SystemExit("killed")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoint, "_consider", stop)
        yield


def disturb() -> None:
    """Moves every random generator on, as another process would have others."""
    random.random()
    np.random.standard_normal(3)
    torch.rand(5)
    keras.random.uniform((2,))


def history(folder: Path) -> list[dict[str, str]]:
    rows = csv.DictReader((folder / "history.csv").read_text().splitlines())
    return [{key: row[key] for key in row if key not in ("seconds", "images_per_second")} for row in rows]


def assert_same(first: Run, second: Run) -> None:
    ours, theirs = (load(run.model_path).keras_model.get_weights() for run in (first, second))
    assert all(np.array_equal(one, other) for one, other in zip(ours, theirs, strict=True))
    assert history(first.directory) == history(second.directory)
    assert first.best_epoch == second.best_epoch
    figures = [json.loads((run.directory / "metrics.json").read_text()) for run in (first, second)]
    assert figures[0] == figures[1]
