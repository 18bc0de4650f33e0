"""Finds exact and near duplicates; they are worst across splits (leaks) or across classes (conflicts).

Near duplicates are the same shot saved again, resized, recoloured or slightly shifted. They are found in two steps.
First, a perceptual hash finds candidates among all pairs: the 8 x 8 lowest frequencies of a grey thumbnail (DCT, as in
pHash: Zauner, 2010). They stay real numbers, because as bits they miss a tenth of CIFAR-10's near duplicates; each is
weighted by its frequency, because the amplitudes of natural images fall off with it (Field, 1987); and they are
compared by cosine. Then the pixels decide: the edges of the thumbnails are correlated in 16 blocks, so that a common
frame or horizon is not enough, at the best of 25 shifts. docs/decisions/009-data-checks.md has the measurements.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kcv.common.cores import usable_cores
from kcv.common.progress import Progress
from kcv.quality.copies.scan import ImageRecord, Scan
from kcv.quality.findings import Finding, SampleRef

ALIKE = 0.95
"""The similarity required where more than half of the images look like others: line drawings, X-rays, film frames."""


def duplicates(scan: Scan, similar: float | None = None, *, progress: bool = False) -> Iterator[Finding]:
    """Yields one finding per group of duplicates, or two if the group spans both several splits and several classes.

    Near duplicates of near duplicates form one group. A group of near duplicates also contains their exact duplicates.

    Args:
        scan: the images.
        similar: the least similarity of near duplicates; 1 finds exact duplicates only. None is `SIMILAR`, or `ALIKE`
            if `SIMILAR` would match more than half of the images.
        progress: whether to show a progress bar.
    """
    twins = _twins(scan.records)
    for group in twins.values():
        if len(group) > 1:
            yield from _findings([scan.members[i] for i in group], "the same image")
    if similar is not None and similar >= 1:
        return
    near = _near(scan, twins, similar, progress=progress)
    if near.alike:
        yield Finding(
            "alike",
            f"{near.alike:,} of {len(twins):,} different images look like others of them (similarity {SIMILAR} "
            f"and above); nearly the same is therefore {ALIKE} and above",
        )
    best: dict[int, float] = defaultdict(float)
    groups = _joined(near.pairs)
    for (first, _), value in zip(near.pairs.tolist(), near.values.tolist(), strict=True):
        best[groups[first]] = max(best[groups[first]], value)
    everyone = {group[0]: group for group in twins.values()}
    members: dict[int, list[int]] = defaultdict(list)
    for first in sorted(groups):
        members[groups[first]] += everyone[first]
    for root, positions in members.items():
        group_of = [scan.members[i] for i in sorted(positions)]
        yield from _findings(group_of, "nearly the same image", round(best[root], 4))


def groups_of(scan: Scan, *, near: bool = True, progress: bool = False) -> tuple[Pairs, Pairs]:
    """Returns the group of each image: those of near-duplicates, and those of exact copies.

    Args:
        scan: the images.
        near: whether to search for near-duplicates; the time grows with the square of the number of images.
        progress: whether to show a progress bar.

    Returns:
        Twice int64 [n]: the position of the first image of the group, by the rules of `duplicates`. An image that
        cannot be read is a group of its own.
    """
    exact = np.arange(len(scan.records))
    twins = _twins(scan.records)
    for group in twins.values():
        exact[group] = group[0]
    if not near:
        return exact, exact
    joined = _joined(_near(scan, twins, None, progress=progress).pairs)
    return np.array([joined.get(first, first) for first in exact.tolist()], dtype=np.int64), exact


@dataclass(frozen=True)
class _Near:
    """Pairs of near-duplicates.

    Attributes:
        pairs: positions in the scan of images that differ, int64 [pairs, 2].
        values: their similarities, float32 [pairs].
        alike: how many images look like others, if these are so many that `ALIKE` was required; otherwise 0.
    """

    pairs: Pairs
    values: Float
    alike: int


def _near(scan: Scan, twins: dict[bytes, list[int]], similar: float | None, *, progress: bool) -> _Near:
    """Finds near-duplicates among the different images of a scan; see `duplicates`."""
    firsts = np.array([group[0] for group in twins.values()], dtype=np.int64)
    with Progress(len(firsts) if progress else None, "comparing images") as bar:
        pairs, values = near_pairs(scan.thumbnails[firsts], similar or SIMILAR, bar.advance)
    alike = len(np.unique(pairs))
    if similar is not None or alike <= len(firsts) / 2:
        return _Near(firsts[pairs], values, 0)
    return _Near(firsts[pairs[values >= ALIKE]], values[values >= ALIKE], alike)


def _findings(group: Sequence[SampleRef], what: str, similarity: float | None = None) -> Iterator[Finding]:
    near = "near_" if similarity is not None else ""
    splits = _listed(member.split for member in group)
    classes = _listed(member.class_name for member in group)
    names = _few([member.name for member in group])
    if len(splits) > 1:
        yield Finding(f"{near}leak", f"{what} in {' and '.join(splits)}: {names}", group, similarity)
    if len(classes) > 1:
        yield Finding(f"{near}conflict", f"{what} as {' and as '.join(classes)}: {names}", group, similarity)
    if len(splits) == len(classes) == 1:
        yield Finding(f"{near}duplicate", f"{what} {len(group)} times in {splits[0]}: {names}", group, similarity)


def _listed(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _few(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _twins(seen: Sequence[ImageRecord | str]) -> dict[bytes, list[int]]:
    """Returns the positions of the readable images by digest."""
    found: dict[bytes, list[int]] = defaultdict(list)
    for position, one in enumerate(seen):
        if isinstance(one, ImageRecord):
            found[one.digest].append(position)
    return found


def _joined(pairs: Pairs) -> dict[int, int]:
    """Returns, for each position in a pair, the smallest position that it is connected to by pairs (union-find)."""
    parent: dict[int, int] = {}

    def root(position: int) -> int:
        while parent.setdefault(position, position) != position:
            parent[position] = position = parent[parent[position]]
        return position

    for first, second in pairs.tolist():
        low, high = sorted((root(first), root(second)))
        parent[high] = low
    return {position: root(position) for position in parent}


SIMILAR: Final = 0.8
"""The least similarity (at most 1) of near duplicates."""

_FREQUENCIES = 8
_CANDIDATE = 0.65  # cosine of two hashes from which the pixels are compared
_MOST = 20  # candidates per image; limits the pairs to compare if all images look alike (X-rays, digits)
_ROWS = 512  # images that are compared with all others at a time
_PAIRS = 256  # pairs whose pixels are compared at a time
_SHIFT = 2  # pixels of the thumbnail, in each direction
_BLOCKS = 4  # per side
_FAINT = 50.0  # (levels of 255 per pixel)^2; a block with much fainter edges hardly counts

Float = NDArray[np.float32]
Pairs = NDArray[np.int64]


def near_pairs(
    thumbnails: NDArray[np.uint8], similar: float = SIMILAR, advance: Callable[[int], object] = lambda _: None
) -> tuple[Pairs, Float]:
    """Finds the pairs of near duplicates, mirrored copies included.

    Time grows with the square of the number of images; memory does not.

    Args:
        thumbnails: uint8 [n, side, side], grey.
        similar: the least similarity of a pair.
        advance: called with the number of images that have been compared with all later ones.

    Returns:
        The sorted pairs, int64 [pairs, 2], each with the smaller position first; their similarities, float32 [pairs].
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
    """Returns unit vectors whose dot product measures the similarity of the coarse structure of two images.

    Args:
        thumbnails: uint8 [n, side, side], grey.

    Returns:
        float32 [n, 63]; zeros for an image of one colour, so that it resembles no other.
    """
    from scipy.fft import dctn

    weights = np.hypot(*np.mgrid[:_FREQUENCIES, :_FREQUENCIES]).ravel()[1:].astype(np.float32)
    hashes = np.empty((len(thumbnails), weights.size), np.float32)
    for start in range(0, len(thumbnails), _ROWS):
        block = thumbnails[start : start + _ROWS].astype(np.float32)
        low = dctn(block, axes=(1, 2), norm="ortho")[:, :_FREQUENCIES, :_FREQUENCIES]
        hashes[start : start + _ROWS] = low.reshape(len(block), -1)[:, 1:] * weights  # without [0], the mean brightness
    norms = np.linalg.norm(hashes, axis=1, keepdims=True)
    hashes /= np.where(norms > 1, norms, np.inf)
    return hashes


def similarity(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> Float:
    """Returns the similarity of pairs of thumbnails, regardless of brightness, contrast and colours.

    It is the correlation of their edges (smoothed gradients) in each of 16 blocks, averaged over the blocks that have
    edges, at the best shift of up to 2 pixels in each direction.

    Args:
        first: uint8 [n, 32, 32], grey.
        second: uint8 [n, 32, 32], grey.

    Returns:
        float32 [n], at most 1; equal images have 1.
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
    """Yields near-duplicate pairs whose first image is among the `_ROWS` images from `start`; a pair may come twice."""
    rows = hashes[start : start + _ROWS]
    # Mirroring keeps the frequencies, but changes the sign of those that are odd from left to right.
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
    """Returns pairs of positions with similar hashes, at most `_MOST` per row; `hashes` begins with `rows`."""
    cosines = rows @ hashes.T
    cosines[np.tri(*cosines.shape, dtype=np.bool_)] = -1  # each pair once, none with itself
    alike = cosines >= _CANDIDATE
    for row in np.flatnonzero(alike.sum(axis=1) > _MOST):
        alike[row] = False
        alike[row, np.argpartition(cosines[row], -_MOST)[-_MOST:]] = True
    return np.argwhere(alike)


def _edges(thumbnails: NDArray[np.uint8]) -> Float:
    """Returns the vertical and horizontal gradient of each thumbnail, float32 [n, 2, side, side]."""
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(thumbnails.astype(np.float32), (0, 0.7, 0.7))  # so that JPEG noise does not count as edges
    return np.stack(np.gradient(smooth, axis=(1, 2)), axis=1)


def _block_means(products: Float) -> Float:
    """Sums over the two directions and averages over the pixels of each block: float32 [n, 4, 4]."""
    n, directions, side, _ = products.shape
    block = side // _BLOCKS
    means: Float = products.reshape(n, directions, _BLOCKS, block, _BLOCKS, block).sum(axis=(1, 3, 5)) / block**2
    return means
