"""Memory stays flat: over the epochs of a training, and over the rows of a prediction.

KCV_LONG=1 takes 200 epochs of digits and 50,000 images, as `nox -s reliability` does; the complete set fewer.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from warm import WarmPython

if TYPE_CHECKING:
    from kcv.tasks.export import Export
    from kcv.training.run_folder import Run

LONG = os.environ.get("KCV_LONG") == "1"
EPOCHS, IMAGES = (200, 50_000) if LONG else (24, 10_000)
MOST_MB = 40
"""Between the first tenth and the end; a tensor of an epoch that is not given back would be 5 MB an epoch on digits."""

Sizes = Callable[..., list[float]]

pytestmark = [pytest.mark.long, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")]

_TRAIN = """
import json, sys
import kcv
from kcv.training.callbacks.logging import CSVLogger

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20

sizes, row = [], CSVLogger.on_epoch_end
def on_epoch_end(self, epoch, logs=None):
    row(self, epoch, logs)
    sizes.append(resident())
CSVLogger.on_epoch_end = on_epoch_end
kcv.train(kcv.Config.load(data="digits", epochs=int(sys.argv[1]), output_dir=sys.argv[2], tracking="none", device="cpu",
                          **{"model.width": 0.125, "train.checkpoint_seconds": 1.0, "augment.crop_padding": 2}))
print(json.dumps(sizes))
"""

_PREDICT = """
import json, sys
import kcv

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20

paths, count = sys.argv[3:], int(sys.argv[2])
sizes = []
for number, row in enumerate(kcv.predict((paths[i % len(paths)] for i in range(count)), sys.argv[1])):
    assert not row["error"]
    if number % 1000 == 999:
        sizes.append(resident())
print(json.dumps(sizes))
"""


@pytest.fixture
def sizes_of(warm: WarmPython, tmp_path: Path) -> Callable[..., list[float]]:
    """Returns a function that runs a script in a process of its own and gives the sizes that it prints, in MB."""

    def run(script: str, *words: object) -> list[float]:
        (tmp_path / "script.py").write_text(script)
        done = warm.start(str(tmp_path / "script.py"), words, folder=tmp_path).finished(timeout=3000)
        assert done.returncode == 0, done.stderr
        sizes: list[float] = json.loads(done.stdout.splitlines()[-1])
        return sizes

    return run


def test_memory_is_flat_over_many_epochs(sizes_of: Sizes, tmp_path: Path) -> None:
    sizes = sizes_of(_TRAIN, EPOCHS, tmp_path / "run")
    assert len(sizes) == EPOCHS
    settled = max(sizes[: EPOCHS // 4])
    print(f"{EPOCHS} epochs: {settled:.0f} MB after a quarter, {max(sizes):.0f} MB at most")
    assert max(sizes) - settled < MOST_MB


@pytest.mark.parametrize("kind", ["onnx", "keras"])
def test_memory_is_flat_over_many_predictions(
    kind: str, sizes_of: Sizes, exported: Export, trained_run: Run, images: Path
) -> None:
    model = exported.path if kind == "onnx" else trained_run.model_path
    paths = [str(path) for path in sorted((images / "test").rglob("*.png"))]
    sizes = sizes_of(_PREDICT, model, IMAGES, *paths)
    assert len(sizes) == IMAGES // 1000
    settled = max(sizes[: max(2, len(sizes) // 4)])
    print(f"{IMAGES:,} predictions, {kind}: {settled:.0f} MB after a quarter, {max(sizes):.0f} MB at most")
    assert max(sizes) - settled < MOST_MB
