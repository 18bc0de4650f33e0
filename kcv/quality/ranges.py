"""Checks whether the values of images of more than 8 bits suit how they are read; if not, much detail is lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from kcv.quality.findings import Finding, SampleRef
from kcv.quality.scan import ImageRecord, Scan

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
