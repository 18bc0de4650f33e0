"""Measures confident learning: of N suspects, how many are images of CIFAR-10 whose label was changed.

    KCV_DATA_DIR=... python tests/quality/measure_label_errors.py [IMAGES] [FOLDER]

It draws IMAGES (3,000) training images, changes 5% of their labels at random, trains in five folds on the frozen
features of EfficientNet-Lite0 at 96 px, and prints precision and recall of the first N suspects beside those of the
most confident mistakes. Everything is seeded. Figures: docs/decisions/026-folds.md.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from kcv.config import Config
from kcv.data.loading import open_source
from kcv.images import decode
from kcv.inference.label_check import judge
from kcv.metrics.confident_learning import find_label_errors
from kcv.metrics.significance import wilson_interval
from kcv.tasks.train_folds import train_folds

CHANGED = 0.05


def draw(images: int, folder: Path) -> set[str]:
    """Writes images as class folders, some of them in a wrong one; returns the names of these."""
    from PIL import Image

    source = open_source("cifar10")
    train, names = source.splits["train"], source.class_names
    rng = np.random.default_rng(0)
    chosen = np.sort(rng.choice(len(train), images, replace=False))
    wrong = set(rng.choice(images, round(CHANGED * images), replace=False).tolist())
    changed = set()
    part = train.take(chosen)
    for number, (encoded, label) in enumerate(zip(part.images, part.labels.tolist(), strict=True)):
        given = (label + int(rng.integers(1, len(names)))) % len(names) if number in wrong else label
        name = f"{names[given]}/{number:05}.png"
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(decode(encoded)).save(path)
        if number in wrong:
            changed.add(name)
    return changed


def measure(images: int, folder: Path) -> None:
    """Prints the table."""
    data = folder / "data"
    changed = draw(images, data)
    config = Config.load(
        data=str(data),
        model="efficientnet_lite0",
        tracking="none",
        output_dir=str(folder / "run"),
        batch_size=128,
        epochs=20,
        lr=3e-3,
        **{
            "data.image_size": 96,
            "data.test_fraction": 0,
            "model.mode": "feature_extraction",
            "model.dropout": 0.2,
            "optim.weight_decay": 0.1,
            "train.plots": False,
        },
    )
    done = train_folds(config, 5)
    low, high = done.metrics["accuracy_ci95"]
    print(f"{images:,} images, {len(changed)} labels changed; out-of-fold accuracy {done.metrics['accuracy']:.2%}",
          f"(95% interval {low:.2%} to {high:.2%})")  # fmt: skip
    judged = judge(open_source(str(data)), done.directory)
    labels, scores = judged.samples.labels, judged.probabilities
    truth = np.array([name in changed for name in judged.samples.names])
    found = find_label_errors(labels, scores)
    predicted, confidence = scores.argmax(axis=1), scores.max(axis=1)
    mistakes = np.flatnonzero(predicted != labels)
    lists = {
        "confident learning": found.positions,
        "most confident mistakes": mistakes[np.argsort(-confidence[mistakes], kind="stable")],
    }
    print(f"suspects {len(found.positions)}, estimated {found.estimated:.0f}, mistakes {len(mistakes)}")
    for most in (25, 50, 100, len(changed), len(found.positions)):
        for name, positions in lists.items():
            first = positions[:most]
            hits = int(truth[first].sum())
            low, high = wilson_interval(hits, len(first))
            print(f"first {most:4}  {name:24} precision {hits / len(first):7.2%} ({low:.2%} to {high:.2%})",
                  f" recall {hits / len(changed):7.2%}")  # fmt: skip


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
    if len(sys.argv) > 2:
        measure(count, Path(sys.argv[2]))
    else:
        with tempfile.TemporaryDirectory() as place:
            measure(count, Path(place))
