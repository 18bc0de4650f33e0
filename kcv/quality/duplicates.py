"""Finds exact and near duplicates; they are worst across splits (leaks) or across classes (conflicts)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from kcv.common.progress import Progress
from kcv.quality.findings import Finding, SampleRef
from kcv.quality.scan import ImageRecord, Scan
from kcv.quality.similarity import SIMILAR, Pairs, near_pairs

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
    firsts = np.array([group[0] for group in twins.values()], dtype=np.int64)
    with Progress(len(firsts) if progress else None, "comparing images") as bar:
        pairs, values = near_pairs(scan.thumbnails[firsts], similar or SIMILAR, bar.advance)
    if similar is None and (alike := len(np.unique(pairs))) > len(firsts) / 2:
        yield Finding(
            "alike",
            f"{alike:,} of {len(firsts):,} different images look like others of them (similarity {SIMILAR} "
            f"and above); nearly the same is therefore {ALIKE} and above",
        )
        pairs, values = pairs[values >= ALIKE], values[values >= ALIKE]
    pairs = firsts[pairs]
    best: dict[int, float] = defaultdict(float)
    groups = _joined(pairs)
    for (first, _), value in zip(pairs.tolist(), values.tolist(), strict=True):
        best[groups[first]] = max(best[groups[first]], value)
    everyone = {group[0]: group for group in twins.values()}
    members: dict[int, list[int]] = defaultdict(list)
    for first in sorted(groups):
        members[groups[first]] += everyone[first]
    for root, positions in members.items():
        group_of = [scan.members[i] for i in sorted(positions)]
        yield from _findings(group_of, "nearly the same image", round(best[root], 4))


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
