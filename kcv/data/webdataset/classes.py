"""The class names of shards: `classes.txt` or `labels.json` beside them, or their labels themselves."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from kcv.common import untrusted
from kcv.common.text import shortened
from kcv.common.untrusted import parse_json, refusing
from kcv.data.classes import MOST_CLASSES, MOST_NAME
from kcv.data.webdataset.shards import TarShard
from kcv.errors import DataError

FILES: Final = ("classes.txt", "labels.json")

_MOST_BYTES: Final = 16 * 2**20
_NUMBER: Final = re.compile(r"\d{1,9}")


def class_names_beside(shard: TarShard) -> tuple[str, ...] | None:
    """Returns the class names in a file beside a shard, in the order of their numbers; None if there is none.

    `classes.txt` has one name per line. `labels.json` is a list of names, or an object of names by number or of
    numbers by name.

    Raises:
        DataError: the file cannot be read as such, or has too many or too long names.
    """
    for file in FILES:
        place = f"{shard.place[: shard.place.replace(os.sep, '/').rfind('/') + 1]}{file}"  # a URL stays one
        content = _content(shard, place)
        if content is None:
            continue
        names = _lines(content, place) if file.endswith(".txt") else _json(content, place)
        if not names or len(names) > MOST_CLASSES or any(len(name) > MOST_NAME for name in names):
            raise DataError(f"{place}: needs 1 to {MOST_CLASSES:,} class names of up to {MOST_NAME:,} characters.")
        if len(set(names)) != len(names) or "" in names:
            raise DataError(f"{place}: its class names are not all different, or one is empty.")
        return tuple(names)
    return None


def _content(shard: TarShard, place: str) -> bytes | None:
    if shard.system is None:
        return untrusted.read_bytes(Path(place), _MOST_BYTES, DataError) if os.path.exists(place) else None
    try:
        with shard.system.open(place, "rb") as stream:
            content: bytes = stream.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        return None
    except DataError:
        raise
    except Exception:  # a server may refuse what is not there in its own way
        return None
    if len(content) > _MOST_BYTES:
        raise DataError(f"{place}: is larger than {_MOST_BYTES:,} bytes.")
    return content


def _lines(content: bytes, place: str) -> list[str]:
    with refusing(place, DataError, "is not UTF-8 text"):
        return [line.strip() for line in content.decode("utf-8-sig").strip().splitlines()]


def _json(content: bytes, place: str) -> list[str]:
    values = parse_json(content, place, DataError)
    if isinstance(values, dict):
        if all(isinstance(value, int) and not isinstance(value, bool) for value in values.values()):
            count, values = len(values), {str(number): name for name, number in values.items()}
        else:
            count = len(values)
        if values.keys() != set(map(str, range(count))):
            raise DataError(f"{place}: its numbers are not 0 to {count - 1:,}, each once.")
        values = [values[str(number)] for number in range(len(values))]
    if not isinstance(values, list) or not all(isinstance(name, str) for name in values):
        raise DataError(f"{place}: is no list of class names, nor an object of names by number.")
    return values


def class_names_of(labels: Sequence[str], listed: Sequence[str] | None, name: str) -> tuple[tuple[str, ...], list[int]]:
    """Returns the class names, and the class of each label.

    Args:
        labels: all different labels.
        listed: the class names beside the shards.
        name: the name of the source.

    Raises:
        DataError: a label is neither a number nor a name of the listed classes.
    """
    numeric = all(map(_NUMBER.fullmatch, labels))
    if listed is None:
        names = sorted({str(int(label)) for label in labels}, key=int) if numeric else sorted(labels)
        position = {each: i for i, each in enumerate(names)}
        return tuple(names), [position[str(int(label)) if numeric else label] for label in labels]
    by_name = {each: i for i, each in enumerate(listed)}
    found = [by_name.get(label, int(label) if numeric else -1) for label in labels]
    wrong = next((label for label, i in zip(labels, found, strict=True) if not 0 <= i < len(listed)), None)
    if wrong is not None:
        raise DataError(
            f"{name}: the label {shortened(wrong, 60)!r} is neither one of 0 to {len(listed) - 1} nor one of the names "
            f"in {' or '.join(FILES)}."
        )
    return tuple(listed), found
