"""Settings and data at their ends: a training comes to an end, with figures that are numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kcv.config import Config
from kcv.tasks.train import train
from kcv.training.callbacks.control import Diverged

Configure = Callable[..., Config]


@pytest.mark.parametrize(
    "options",
    [
        {"optim.label_smoothing": 0.999, "lr": 1e-30},
        pytest.param({"optim.weight_decay": 100.0}, marks=pytest.mark.full),
        pytest.param({"optim.name": "sgd", "lr": 100.0, "optim.weight_decay": 100.0}, marks=pytest.mark.full),
    ],
    ids=["nothing is learned", "all is forgotten", "nothing holds"],
)
def test_settings_at_their_ends(options: dict[str, Any], configure: Configure) -> None:
    constant = {"optim.schedule": "constant", "optim.warmup_epochs": 0.0, "epochs": 1}
    try:
        run = train(configure(**constant, **options))
    except Diverged as error:
        assert "\n" not in str(error)
        return
    assert all(math.isfinite(value) for row in run.history for value in row.values())
    assert json.loads((run.directory / "metrics.json").read_text())["n"] == 24


@pytest.mark.full
def test_a_class_that_has_nearly_all_images(configure: Configure, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, count in (("most", 197), ("few", 3)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{number:03}.png")
    run = train(configure(data=str(tmp_path / "images"), epochs=1, batch_size=64))
    assert run.metrics["n"] > 0
    assert all(math.isfinite(value) for row in run.history for value in row.values())
