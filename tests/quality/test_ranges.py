"""Images of more than 8 bits whose numbers do not fit how they are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kcv.tasks.check import check


def saved(root: Path, arrays: list[np.ndarray], suffix: str) -> Path:
    for number, array in enumerate(arrays):
        folder = root / ("first" if number % 2 else "second")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(folder / f"{number:02d}{suffix}")
    return root


def found(root: Path) -> list[str]:
    return [finding.message for finding in check(root).findings if finding.kind == "range"]


def noise(most: float, count: int = 12) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.random((16, 16)) * most for _ in range(count)]


def test_twelve_bits_in_sixteen_are_told(tmp_path: Path) -> None:
    (message,) = found(saved(tmp_path / "d", [array.astype(np.uint16) for array in noise(4095)], ".png"))
    assert message.startswith("12 16-bit images use 6% of their range (4,0")
    assert "at most 17 of 256 levels" in message


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (noise(60000), []),
        ([*noise(4000, 11), *noise(50000, 1)], []),
        (
            [array - 5000 for array in noise(40000)],
            ["12 16-bit images have numbers below 0, which are read as black"],
        ),
        (noise(90000), ["12 16-bit images have numbers above 65,535, which are read as white"]),
    ],
)
def test_integers(arrays: list[np.ndarray], words: list[str], tmp_path: Path) -> None:
    assert found(saved(tmp_path / "d", [array.astype(np.int32) for array in arrays], ".tif")) == words


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (noise(1.0), []),
        (noise(200.0), []),
        ([*noise(1.0, 3), *noise(200.0, 9)], ["float images of two scales: 3 of 12 have no number above 1, and"]),
        ([array - 0.5 for array in noise(1.0)], ["12 float images have numbers below 0, which are read as black"]),
        (noise(5000.0), ["12 float images have numbers above 255, which are read as white"]),
    ],
)
def test_floats(arrays: list[np.ndarray], words: list[str], tmp_path: Path) -> None:
    messages = found(saved(tmp_path / "d", [array.astype(np.float32) for array in arrays], ".tif"))
    assert len(messages) == len(words)
    assert all(message.startswith(word) for message, word in zip(messages, words, strict=True))


def test_eight_bits_have_no_range(tmp_path: Path) -> None:
    assert found(saved(tmp_path / "d", [array.astype(np.uint8) for array in noise(20)], ".png")) == []
