"""Which images are nearly the same: the same shot, saved again, resized, recoloured, or moved by a little.

Two steps. A perceptual hash finds candidates among all pairs: the 8 x 8 lowest frequencies of a grey thumbnail (DCT,
as in pHash: Zauner, 2010), but kept as real numbers, each weighted by its frequency because natural images fall off
by it (Field, 1987), and compared by the cosine: as bits they lose a tenth of CIFAR-10's near-duplicates. Then the
pixels decide: the edges of the thumbnails are correlated in 16 blocks, so that a frame or a horizon in common is not
enough, at the best of 25 shifts. docs/decisions/009-data-checks.md has the figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kcv.common.cores import usable_cores

SIMILAR: Final = 0.8
"""From this likeness on (at most 1) two images are called nearly the same."""

_FREQUENCIES = 8
_CANDIDATE = 0.65  # cosine of two hashes from which the pixels are compared
_MOST = 20  # candidates an image: where all images look alike (X-rays, digits), not all pairs are compared
_ROWS = 512  # images that are compared with all others at a time
_PAIRS = 256  # pairs whose pixels are compared at a time
_SHIFT = 2  # pixels of the thumbnail, each way
_BLOCKS = 4  # a side
_FAINT = 50.0  # (levels of 255 per pixel)^2; a block whose edges are much fainter hardly counts

Float = NDArray[np.float32]
Pairs = NDArray[np.int64]


def near_pairs(
    thumbnails: NDArray[np.uint8], similar: float = SIMILAR, advance: Callable[[int], object] = lambda _: None
) -> tuple[Pairs, Float]:
    """Finds the pairs of nearly equal images.

    Mirrored copies count, too. Time grows with the square of the number of images, memory does not.

    Args:
        thumbnails: uint8 [n, side, side], grey.
        similar: the least likeness of a pair.
        advance: told how many images have been compared with all later ones.

    Returns:
        int64 [pairs, 2], positions with the smaller one first, in order; float32 [pairs], the likeness.
    """
    hashes = perceptual_hashes(thumbnails)

    def compare(start: int) -> tuple[Pairs, Float]:
        found = list(_compare(hashes, thumbnails, start, similar))
        advance(min(_ROWS, len(hashes) - start))
        if not found:
            return np.empty((0, 2), np.int64), np.empty(0, np.float32)
        return np.concatenate([pairs for pairs, _ in found]), np.concatenate([values for _, values in found])

    with ThreadPoolExecutor(usable_cores()) as pool:
        parts = list(pool.map(compare, range(0, len(hashes), _ROWS)))
    if not parts:
        return np.empty((0, 2), np.int64), np.empty(0, np.float32)
    return np.concatenate([pairs for pairs, _ in parts]), np.concatenate([values for _, values in parts])


def perceptual_hashes(thumbnails: NDArray[np.uint8]) -> Float:
    """Returns unit vectors whose dot product tells how alike the coarse structure of two images is.

    Args:
        thumbnails: uint8 [n, side, side], grey.

    Returns:
        float32 [n, 63]; zeros for an image of one colour, which so is like no other.
    """
    from scipy.fft import dctn

    weights = np.hypot(*np.mgrid[:_FREQUENCIES, :_FREQUENCIES]).ravel()[1:].astype(np.float32)
    hashes = np.empty((len(thumbnails), weights.size), np.float32)
    for start in range(0, len(thumbnails), _ROWS):
        block = thumbnails[start : start + _ROWS].astype(np.float32)
        low = dctn(block, axes=(1, 2), norm="ortho")[:, :_FREQUENCIES, :_FREQUENCIES]
        hashes[start : start + _ROWS] = low.reshape(len(block), -1)[:, 1:] * weights  # [0], the mean, says nothing
    norms = np.linalg.norm(hashes, axis=1, keepdims=True)
    hashes /= np.where(norms > 1, norms, np.inf)
    return hashes


def similarity(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> Float:
    """Returns how alike pairs of thumbnails are, whatever their brightness, contrast and colours.

    The correlation of their edges (smoothed gradients) in each of 16 blocks, averaged over the blocks that have edges,
    at the best of the shifts by up to 2 pixels each way.

    Args:
        first: uint8 [n, 32, 32], grey.
        second: uint8 [n, 32, 32], grey.

    Returns:
        float32 [n], at most 1, which equal images have.
    """
    edges, others = _edges(first), _edges(second)
    inner = first.shape[1] - 2 * _SHIFT
    fixed = edges[:, :, _SHIFT : _SHIFT + inner, _SHIFT : _SHIFT + inner]
    energy = _block_means(fixed * fixed)
    best = np.full(len(first), -1, np.float32)
    for down in range(2 * _SHIFT + 1):
        for right in range(2 * _SHIFT + 1):
            moved = others[:, :, down : down + inner, right : right + inner]
            other = _block_means(moved * moved)
            correlation = _block_means(fixed * moved) / (np.sqrt(energy * other) + 1e-3)
            strength = np.maximum(energy, other)
            weight = strength / (strength + _FAINT)
            score = (correlation * weight).sum(axis=(1, 2)) / (weight.sum(axis=(1, 2)) + 1e-6)
            np.maximum(best, score, out=best)
    return best


def _compare(hashes: Float, thumbnails: NDArray[np.uint8], start: int, similar: float) -> Iterator[tuple[Pairs, Float]]:
    """Yields the nearly equal pairs whose first image is one of `_ROWS` from `start` on, perhaps one pair twice."""
    rows = hashes[start : start + _ROWS]
    # A mirrored image has the same frequencies; those that are odd from left to right change their sign.
    signs = np.tile(np.array([1, -1], np.float32), _FREQUENCIES**2 // 2)[1:]
    for mirrored in (False, True):
        candidates = _candidates(rows * signs if mirrored else rows, hashes[start:]) + start
        for i in range(0, len(candidates), _PAIRS):
            pairs = candidates[i : i + _PAIRS]
            first = thumbnails[pairs[:, 0]]
            values = similarity(first[:, :, ::-1] if mirrored else first, thumbnails[pairs[:, 1]])
            alike = values >= similar
            if alike.any():
                yield pairs[alike], values[alike]


def _candidates(rows: Float, hashes: Float) -> Pairs:
    """Returns pairs of positions whose hashes are alike, at most `_MOST` for each row; rows are the first of hashes."""
    cosines = rows @ hashes.T
    cosines[np.tri(*cosines.shape, dtype=np.bool_)] = -1  # each pair once, none with itself
    alike = cosines >= _CANDIDATE
    for row in np.flatnonzero(alike.sum(axis=1) > _MOST):
        alike[row] = False
        alike[row, np.argpartition(cosines[row], -_MOST)[-_MOST:]] = True
    return np.argwhere(alike)


def _edges(thumbnails: NDArray[np.uint8]) -> Float:
    """Returns the gradient of each thumbnail down and to the right, float32 [n, 2, side, side]."""
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(thumbnails.astype(np.float32), (0, 0.7, 0.7))  # else the noise of JPEG counts as edges
    return np.stack(np.gradient(smooth, axis=(1, 2)), axis=1)


def _block_means(products: Float) -> Float:
    """Sums over the two directions and averages over the pixels of each block: float32 [n, 4, 4]."""
    n, directions, side, _ = products.shape
    block = side // _BLOCKS
    means: Float = products.reshape(n, directions, _BLOCKS, block, _BLOCKS, block).sum(axis=(1, 3, 5)) / block**2
    return means
