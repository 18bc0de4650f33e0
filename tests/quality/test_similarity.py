"""Likeness: the perceptual hash, the comparison of pixels, and the search over all pairs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.fft import dctn
from scipy.ndimage import gaussian_filter

from kcv.quality.copies import duplicates as room
from kcv.quality.copies.duplicates import near_pairs, perceptual_hashes, similarity


def thumbnails(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    smooth = gaussian_filter(rng.normal(size=(n, 32, 32)), (0, 2, 2))
    scaled = 128 + 40 * smooth / smooth.std(axis=(1, 2), keepdims=True)
    return np.clip(scaled, 0, 255).astype(np.uint8)


def test_hashes_are_the_weighted_low_frequencies() -> None:
    images = thumbnails(3)
    expected = np.array(
        [
            [np.hypot(u, v) * dctn(image.astype(float), norm="ortho")[u, v] for u in range(8) for v in range(8)][1:]
            for image in images
        ]
    )
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(perceptual_hashes(images), expected, atol=1e-5)


def test_hashes_do_not_change_with_brightness_and_contrast() -> None:
    images = thumbnails(4)
    changed = (images * 0.5 + 60).astype(np.uint8)
    assert ((perceptual_hashes(images) * perceptual_hashes(changed)).sum(axis=1) > 0.99).all()


def test_images_of_one_colour_are_like_nothing() -> None:
    flat = np.stack([np.full((32, 32), level, np.uint8) for level in (0, 100, 255)])
    assert not perceptual_hashes(flat).any()
    assert not len(near_pairs(flat)[0])


def test_similarity_is_one_for_equals_and_low_for_strangers() -> None:
    images = thumbnails(40)
    np.testing.assert_allclose(similarity(images, images), 1, atol=1e-3)
    assert (similarity(images[:20], images[20:]) < 0.5).all()


def test_similarity_forgives_a_shift_and_not_a_frame_in_common() -> None:
    images = thumbnails(2)
    moved = np.roll(images, (2, -1), axis=(1, 2))
    assert (similarity(images, moved) > 0.95).all()
    framed = images.copy()
    for side in (np.s_[:, :2], np.s_[:, -2:], np.s_[:, :, :2], np.s_[:, :, -2:]):
        framed[side] = 0
    assert similarity(framed[:1], framed[1:])[0] < 0.6


@pytest.mark.parametrize("rows", [1, 7, 64, 512])
def test_blocks_of_any_size_find_the_pairs_of_a_plain_search(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_ROWS", rows)
    originals = thumbnails(60)
    rng = np.random.default_rng(1)
    noisy = np.clip(originals[[3, 10, 10, 59]] + rng.normal(0, 8, (4, 32, 32)), 0, 255).astype(np.uint8)
    images = np.concatenate([originals, noisy, originals[[20]][:, :, ::-1]])
    done: list[int] = []
    pairs, values = near_pairs(images, 0.8, done.append)
    assert sorted(map(tuple, pairs.tolist())) == [(3, 60), (10, 61), (10, 62), (20, 64), (59, 63), (61, 62)]
    assert (values >= 0.8).all() and len(values) == len(pairs)
    assert sum(done) == len(images)


def test_where_all_images_are_alike_the_candidates_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_MOST", 3)
    rng = np.random.default_rng(0)
    images = np.clip(thumbnails(1) + rng.normal(0, 5, (50, 32, 32)), 0, 255).astype(np.uint8)
    pairs, _ = near_pairs(images)
    assert len(np.unique(pairs)) >= 49
    assert len(pairs) <= 2 * 3 * 50  # as they are, and mirrored


def test_no_images_have_no_pairs() -> None:
    pairs, values = near_pairs(np.empty((0, 32, 32), np.uint8))
    assert pairs.shape == (0, 2) and values.shape == (0,)
