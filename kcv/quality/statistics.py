"""Checks whether images are fit for training: splits, classes, sizes, formats, and values of more than 8 bits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from kcv import images
from kcv.common.text import look
from kcv.config import MIN_IMAGE_SIZE, DataConfig
from kcv.data import loading
from kcv.data.dataset import Source
from kcv.data.rarity import ADVICE, find_rare
from kcv.errors import DataError
from kcv.quality.copies.scan import ImageRecord, Scan
from kcv.quality.findings import Finding, SampleRef

ELONGATED: Final = 4
"""The least ratio of the longer to the shorter side at which squaring an image leaves little of it."""

SMALL: Final = 4
"""An image is odd if its shorter side is more than this many times shorter than the median shorter side."""


def splits(source: Source) -> Iterator[Finding]:
    """Yields the error that `train` would raise about splits and classes, with the default fractions."""
    try:
        loading.split_source(source, DataConfig())
    except DataError as error:
        yield Finding("split", str(error).removeprefix(f"{source.name}: "))


def imbalance(source: Source) -> Iterator[Finding]:
    """Yields a finding for each split in which a class is rare; that of train says what to set."""
    for split, samples in source.splits.items():
        if (rarity := find_rare(samples.labels, source.class_names)) is not None:
            advice = f"; {ADVICE}" if split == "train" else ""
            yield Finding("imbalance", f"{split} has {rarity.describe()}{advice}")


def formats(scan: Scan) -> Iterator[Finding]:
    """Yields the images that cannot be read, and those whose format differs from their file suffix."""
    for member, seen, file in zip(scan.members, scan.records, scan.files, strict=True):
        if isinstance(seen, str):
            yield Finding("unreadable", f"{member.name}: {seen}", (member,))
        elif file is not None and seen.format and file.suffix.lower() not in images.SUFFIXES[seen.format]:
            yield Finding("suffix", f"{member.name}: is {seen.format}", (member,))


def shapes(scan: Scan) -> Iterator[Finding]:
    """Yields the images of one colour and those of an odd size or shape."""
    seen = scan.readable()
    if not seen:
        return
    median = float(np.median([min(one.height, one.width) for _, one in seen]))
    for member, one in seen:
        if one.blank:
            yield Finding("blank", f"{member.name}: one colour all over", (member,))
        if reason := _odd(one, median):
            yield Finding("odd_size", f"{member.name}: {one.width}x{one.height} px, {reason}", (member,))


def _odd(one: ImageRecord, median: float) -> str | None:
    shorter, longer = sorted((one.height, one.width))
    if shorter < MIN_IMAGE_SIZE and shorter < median:
        return f"smaller than the {MIN_IMAGE_SIZE} px that networks start from"
    if shorter * SMALL < median:
        return f"small among images of {median:.0f} px"
    if longer >= ELONGATED * shorter:
        return f"{longer / shorter:.0f} times as {'long' if one.width > one.height else 'high'} as the other side"
    return None


def ignored(source: Source) -> Iterator[Finding]:
    """Yields the unused files below a folder source; one finding per suffix and reason."""
    for one in source.understood.left_out if source.understood else ():
        yield Finding("ignored", one.message, (SampleRef(one.example, "", ""),))


def layout(source: Source) -> Iterator[Finding]:
    """Yields the ambiguities in the layout of a folder source."""
    for note in source.understood.notes if source.understood else ():
        yield Finding("layout", note)


def names(source: Source) -> Iterator[Finding]:
    """Yields the class names that look the same to a person."""
    alike: dict[str, list[str]] = defaultdict(list)
    for name in source.class_names:
        alike[look(name)].append(name)
    for same in alike.values():
        if len(same) > 1:
            yield Finding("names", f"the class names {', '.join(map(ascii, same))} are alike")


DARK: Final = 0.25
"""If all 16-bit images together use less than this fraction of the range, they hold fewer bits: 12 bits use 6%."""

_WHITE: Final = {"16-bit": 65535, "float": 255}
_Deep = Sequence[tuple[SampleRef, ImageRecord]]


def ranges(scan: Scan) -> Iterator[Finding]:
    """Yields findings about the value ranges of all 16-bit images and of all float images.

    Each image is read independently, so that prediction needs no other image: 16-bit values as 0 to 65,535, floats as
    0 to 1 if none is above 1, otherwise as 0 to 255.
    """
    seen = scan.readable()
    for numbers, white in _WHITE.items():
        deep = [(member, one) for member, one in seen if one.numbers == numbers]
        if not deep:
            continue
        yield from _outside(numbers, white, deep)
        yield from _dark(deep, white) if numbers == "16-bit" else _mixed(deep)


def _dark(deep: _Deep, white: int) -> Iterator[Finding]:
    greatest = max(one.extent[1] for _, one in deep)
    if 0 < greatest < DARK * white:
        levels = round(greatest * 255 / white) + 1
        yield Finding(
            "range",
            f"{len(deep):,} 16-bit images use {greatest / white:.0%} of their range ({greatest:,.0f} of {white:,}): "
            f"after reading, at most {levels} of 256 levels are left; scale them to 16 bits",
            [member for member, _ in deep],
        )


def _mixed(deep: _Deep) -> Iterator[Finding]:
    small = [member for member, one in deep if one.extent[1] <= 1]
    if small and len(small) < len(deep):
        yield Finding(
            "range",
            f"float images of two scales: {len(small):,} of {len(deep):,} have no number above 1, and are read as 0 "
            "to 1, the others as 0 to 255",
            small,
        )


def _outside(numbers: str, white: int, deep: _Deep) -> Iterator[Finding]:
    below = [member for member, one in deep if one.extent[0] < 0]
    above = [member for member, one in deep if one.extent[1] > white]
    if below:
        yield Finding("range", f"{len(below):,} {numbers} images have numbers below 0, which are read as black", below)
    if above:
        words = f"{len(above):,} {numbers} images have numbers above {white:,}, which are read as white"
        yield Finding("range", words, above)
