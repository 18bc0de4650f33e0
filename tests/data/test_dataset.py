"""The fingerprint of a source, and images read from memory or from their files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kcv.data.dataset import Encoded, Images, Samples, Source
from kcv.errors import ImageError
from kcv.images import load


def source(images: list[Encoded], names: list[str] | None = None, labels: tuple[int, ...] = (0, 1)) -> Source:
    samples = Samples(images, np.array(labels, dtype=np.int64), names or ["a", "b"])
    return Source("x", ("cat", "dog"), {"train": samples})


def test_take_keeps_images_labels_and_names_together() -> None:
    samples = Samples([b"0", b"1", b"2"], np.array([5, 6, 7]), ["n0", "n1", "n2"]).take(np.array([2, 0]))
    assert (list(samples.images), samples.labels.tolist(), list(samples.names)) == (
        [b"2", b"0"],
        [7, 5],
        ["n2", "n0"],
    )


def test_fingerprint_is_that_of_the_contents() -> None:
    first = source([b"1", b"2"])
    assert first.fingerprint == source([b"1", b"2"]).fingerprint
    assert len(first.fingerprint) == 64
    others = [
        source([b"1", b"3"]),
        source([b"12", b""]),
        source([b"1", b"2"], names=["a", "c"]),
        source([b"1", b"2"], labels=(1, 0)),
        dataclasses.replace(first, class_names=("dog", "cat")),
        dataclasses.replace(first, splits={"test": first.splits["train"]}),
    ]
    assert len({first.fingerprint, *(other.fingerprint for other in others)}) == 1 + len(others)


def test_fingerprint_does_not_depend_on_where_the_source_lies(tmp_path: Path) -> None:
    fingerprints = set()
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        paths: list[Encoded] = []
        for name in ("a", "b"):
            (tmp_path / place / name).write_bytes(b"same size")
            paths.append(tmp_path / place / name)
        fingerprints.add(source(paths).fingerprint)
    assert len(fingerprints) == 1
    (tmp_path / "there" / "b").write_bytes(b"another size")
    assert source(paths).fingerprint not in fingerprints


def test_streamed_and_held_images_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 5, 3), dtype=np.uint8)).save(path)
    samples = Samples([path], np.zeros(1, np.int64), ["a.png"])
    streamed = Images(samples, 8, "letterbox")
    expected = load(path, 8, "letterbox")
    held = Images(samples, 8, "letterbox", expected[None])
    assert np.array_equal(streamed.read(0), expected)
    path.unlink()
    assert np.array_equal(held.read(0), expected), "from memory: the file is gone"
    with pytest.raises(ImageError, match=r"^a\.png: no such file"):
        streamed.read(0)
