"""Brings the class names of several splits into one order, matched by name and never by position."""

from __future__ import annotations

import logging
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from kcv.common.text import is_printable, look
from kcv.data.dataset import Labels, Samples, Source
from kcv.errors import DataError

_log = logging.getLogger(__name__)


def listed(names: Sequence[str], limit: int = 5) -> str:
    """Returns the first `limit` names, quoted, for an error message."""
    return ", ".join(repr(name) for name in names[:limit]) + (", ..." if len(names) > limit else "")


def relabel(labels: Labels, old: Sequence[str], new: Sequence[str], where: str, holder: str) -> Labels:
    """Converts labels that point into `old` to labels that point into `new`, int64 [n].

    Args:
        labels: int64 [n].
        old: the class names that `labels` point into; classes without an image may be missing from `new`.
        new: the wanted class names. Names that differ only in their Unicode form match.
        where: the place of the images, for the error message.
        holder: the owner of the classes `new`, for the error message.

    Raises:
        DataError: a class that has images is not in `new`.
    """
    # macOS file systems store names in another Unicode form; the form is invisible and carries no meaning.
    forms = {unicodedata.normalize("NFC", name): i for i, name in enumerate(new)}
    position = {**forms, **{name: i for i, name in enumerate(new)}}
    positions = [position.get(name, position.get(unicodedata.normalize("NFC", name), -1)) for name in old]
    unknown = [old[int(i)] for i in np.unique(labels) if positions[int(i)] < 0]
    if unknown:
        kind = "a class" if len(unknown) == 1 else "classes"
        raise DataError(
            f"{where}: has {kind} that {holder} does not have: {listed(unknown)}; "
            f"allowed: {listed(new, limit=12)}.{_alike(unknown, new)}"
        )
    table = np.array(positions, dtype=np.int64)
    return table[labels]


def _alike(unknown: Sequence[str], known: Sequence[str]) -> str:
    """Returns a hint if an unknown name looks like a known one."""
    looks = {look(name): name for name in known}
    found = next(((name, looks[look(name)]) for name in unknown if look(name) in looks), None)
    return f" {found[0]!a} and {found[1]!a} look alike, but are two names." if found else ""


def align(
    name: str,
    parts: Mapping[str, tuple[Sequence[str], Samples]],
    *,
    flat: bool = False,
    root: Path | None = None,
) -> Source:
    """Combines splits with separate class names into one source, with the class names of train (or of the first split).

    Classes without an image in any split are left out with a warning, because filtering a data set leaves their names
    declared.

    Args:
        name: the name of the source.
        parts: by split (`train`, `val`, `test`), the class names and the samples whose labels point into them.
        flat: see `Source.flat`.
        root: see `Source.root`.

    Raises:
        DataError: a split has a class that train does not have, a class name is repeated, or there are more classes or
            longer names than allowed.
    """
    first = "train" if "train" in parts else next(iter(parts))
    class_names = tuple(parts[first][0])
    _check_names(class_names, name)
    twice = sorted(class_name for class_name, count in Counter(class_names).items() if count > 1)
    if odd := [name for name in class_names if not is_printable(name)]:
        raise DataError(
            f"{name}: the class names {listed(odd)} hold control characters or bytes that are not UTF-8; rename them."
        )
    if twice:
        raise DataError(f"{name}: the class names {listed(twice)} stand twice in {first}.")
    splits = {
        split: Samples(
            samples.images,
            relabel(samples.labels, names, class_names, f"{name}: the {split} split", f"the {first} split"),
            samples.names,
        )
        for split, (names, samples) in parts.items()
    }
    return Source(name, *_used(class_names, splits, name), flat=flat, root=root)


def _check_names(class_names: Sequence[str], name: str) -> None:
    if len(class_names) > MOST_CLASSES:
        raise DataError(f"{name}: has {len(class_names):,} classes; {MOST_CLASSES:,} are allowed.")
    if long := next((class_name for class_name in class_names if len(class_name) > MOST_NAME), None):
        raise DataError(f"{name}: has a class name of {len(long):,} characters; {MOST_NAME:,} are allowed.")


def _used(
    class_names: tuple[str, ...], splits: dict[str, Samples], name: str
) -> tuple[tuple[str, ...], dict[str, Samples]]:
    """Leaves out, with a warning, the classes without an image in any split; nothing can be learned about them."""
    occur = np.zeros(len(class_names), bool)
    for samples in splits.values():
        occur[samples.labels] = True
    if occur.all():
        return class_names, splits
    unused = [class_names[int(i)] for i in np.flatnonzero(~occur)]
    kind = "class" if len(unused) == 1 else "classes"
    _log.warning("%s: no images of the %s %s, which %s left out", name, kind, listed(unused),
                 "is" if len(unused) == 1 else "are")  # fmt: skip
    table = np.cumsum(occur) - 1
    kept = {split: Samples(samples.images, table[samples.labels], samples.names) for split, samples in splits.items()}
    return tuple(class_names[int(i)] for i in np.flatnonzero(occur)), kept


MOST_CLASSES = 100_000
MOST_NAME = 1_000
"""In characters."""
