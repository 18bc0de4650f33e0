"""scikit-learn's digits as a source."""

from __future__ import annotations

import numpy as np

from kcv.data.sources import digits


def test_digits_are_rgb_stratified_and_always_the_same() -> None:
    source = digits.open_source()
    train, test = source.splits["train"], source.splits["test"]
    assert source.class_names == tuple("0123456789")
    assert (len(train), len(test)) == (1437, 360)
    assert not set(train.names) & set(test.names)
    assert np.bincount(test.labels).min() >= 34
    assert np.bincount(test.labels).max() <= 37
    assert source.fingerprint == digits.open_source().fingerprint


def test_a_zero_looks_like_a_zero() -> None:
    source = digits.open_source()
    train = source.splits["train"]
    image = train.images[train.names.index("digits/0")]
    assert isinstance(image, np.ndarray)
    assert (image.shape, image.dtype) == ((32, 32, 3), np.uint8)
    assert train.labels[train.names.index("digits/0")] == 0
    assert (image[:, :, 0] == image[:, :, 2]).all()
    assert image[14:18, 14:18].max() < 40, "the hole"
    assert image[2:6, 12:18].max() > 200, "the upper arc"
