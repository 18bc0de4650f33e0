"""Whether training would take the pictures as they are: splits, classes, sizes, formats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from kcv import data, images
from kcv.checking.findings import Finding, Member
from kcv.checking.reading import Read, Seen
from kcv.config import MIN_IMAGE_SIZE, DataConfig
from kcv.data.dataset import Source
from kcv.errors import DataError

IMBALANCED: Final = 10
"""From this many times the pictures of the smallest class on, the largest one is worth a warning."""

ELONGATED: Final = 4
"""From this many times as long as wide on (or the reverse), little is left of a picture that is made square."""

SMALL: Final = 4
"""A picture whose shorter side is this many times shorter than the median one is odd."""


def splits(source: Source) -> Iterator[Finding]:
    """Yields what `train` would say of the splits and classes, with the default fractions."""
    try:
        data.split_source(source, DataConfig())
    except DataError as error:
        yield Finding("split", str(error).removeprefix(f"{source.name}: "))


def imbalance(source: Source) -> Iterator[Finding]:
    """Yields a finding for each split whose classes are of very different sizes."""
    for split, samples in source.splits.items():
        counts = np.bincount(samples.labels, minlength=len(source.class_names))
        if not counts.size or counts.min() == 0:
            continue  # a missing class is worse, and `splits` says it
        most, least = int(counts.argmax()), int(counts.argmin())
        if counts[most] >= IMBALANCED * counts[least]:
            yield Finding(
                "imbalance",
                f"{split} has {counts[most]:,} pictures of {source.class_names[most]!r} and {counts[least]:,} of "
                f"{source.class_names[least]!r}, {counts[most] / counts[least]:.0f} times fewer",
            )


def formats(read: Read) -> Iterator[Finding]:
    """Yields the pictures that cannot be read, and those whose file name promises another format."""
    for member, seen, file in zip(read.members, read.seen, read.files, strict=True):
        if isinstance(seen, str):
            yield Finding("unreadable", f"{member.name}: {seen}", (member,))
        elif file is not None and seen.format and file.suffix.lower() not in images.SUFFIXES[seen.format]:
            yield Finding("suffix", f"{member.name}: is {seen.format}", (member,))


def shapes(read: Read) -> Iterator[Finding]:
    """Yields the pictures of one colour and those of an odd size or shape."""
    seen = [(member, one) for member, one in zip(read.members, read.seen, strict=True) if isinstance(one, Seen)]
    if not seen:
        return
    median = float(np.median([min(one.height, one.width) for _, one in seen]))
    for member, one in seen:
        if one.blank:
            yield Finding("blank", f"{member.name}: one colour all over", (member,))
        if reason := _odd(one, median):
            yield Finding("odd_size", f"{member.name}: {one.width}x{one.height} px, {reason}", (member,))


def _odd(one: Seen, median: float) -> str | None:
    shorter, longer = sorted((one.height, one.width))
    if shorter < MIN_IMAGE_SIZE and shorter < median:
        return f"smaller than the {MIN_IMAGE_SIZE} px that networks start from"
    if shorter * SMALL < median:
        return f"small among pictures of {median:.0f} px"
    if longer >= ELONGATED * shorter:
        return f"{longer / shorter:.0f} times as {'long' if one.width > one.height else 'high'} as the other side"
    return None


def ignored(source: Source, root: Path) -> Iterator[Finding]:
    """Yields the files below a folder source that are no pictures of it, hidden ones left out; one finding a suffix."""
    known = {picture for samples in source.splits.values() for picture in samples.pictures}
    found = Counter[str]()
    example: dict[str, str] = {}
    for file in sorted(root.rglob("*")):
        relative = file.relative_to(root)
        if file in known or not file.is_file() or any(part.startswith(".") for part in relative.parts):
            continue
        if "__MACOSX" in relative.parts:
            continue
        suffix = file.suffix.lower()
        found[suffix] += 1
        example.setdefault(suffix, relative.as_posix())
    for suffix, count in found.most_common():
        kind = f"{suffix} file" if suffix else "file without a suffix"
        why = "outside the class folders" if suffix in images.EXTENSIONS else "not a format that is read"
        plural = "" if count == 1 else "s"
        message = f"{count:,} {kind}{plural}, {why}: {example[suffix]}{' ...' if count > 1 else ''}"
        yield Finding("ignored", message, (Member(example[suffix], "", ""),))
