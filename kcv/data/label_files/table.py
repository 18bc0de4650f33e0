"""Reads the tables of label files row by row, within limits: CSV, TSV, lines of JSON, and Parquet."""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from kcv.common.text import shortened
from kcv.common.untrusted import opened, parse_json, refusing
from kcv.data.label_files import parquet_table
from kcv.errors import DataError, first_line

MOST_BYTES: Final = 2**31
MOST_ROWS: Final = 20_000_000
MOST_COLUMNS: Final = 1_000
MOST_LINE: Final = 2**20
"""In characters."""
MOST_SECONDS: Final = 1_800.0

SUFFIXES: Final = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
TEXT_SUFFIXES: Final = SUFFIXES[:-1]

_PEEKED: Final = 100  # rows that the columns are chosen by
_CHECKED: Final = 65536  # rows between two looks at the clock

Row: TypeAlias = tuple[int, Sequence[Any]]
"""The number of the row in messages (a line of a text, from 1; a row of Parquet, from 0), and its values."""


@dataclass(frozen=True)
class Table:
    """A table that is read from its file each time that it is iterated.

    Attributes:
        path: the file.
        names: the names of the columns.
        peeked: the values of the first rows.
        unit: what rows are counted in: `line` or `row`.
        read: returns an iterator over the values of some columns, by their positions.
    """

    path: Path
    names: tuple[str, ...]
    peeked: tuple[Sequence[Any], ...]
    unit: str
    read: Callable[[Sequence[int]], Iterator[Row]]

    def rows(self, columns: Sequence[int]) -> Iterator[Row]:
        """Yields the values of some columns, row by row.

        Raises:
            DataError: the file is damaged or too large.
        """
        end = time.monotonic() + MOST_SECONDS
        for count, row in enumerate(self.read(columns), start=1):
            if count > MOST_ROWS:
                raise DataError(f"{self.path}: has more than {MOST_ROWS:,} rows.")
            if count % _CHECKED == 0 and time.monotonic() > end:
                raise DataError(f"{self.path}: takes longer than {MOST_SECONDS:,.0f} seconds to read.")
            yield row


def open_table(path: Path) -> Table:
    """Opens a label file.

    Text is UTF-8, or UTF-16 with a byte order mark. The first line of CSV names the columns, which are separated by
    commas, semicolons or tabs. Lines without content are passed over.

    Args:
        path: a file with one of `SUFFIXES`.

    Raises:
        DataError: the file is missing, empty, damaged or too large.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        names, read = parquet_table.columns(path)
        unit = "row"
    elif suffix in (".jsonl", ".ndjson"):
        names, read = _json(path)
        unit = "line"
    else:
        names, read = _separated(path, "\t" if suffix == ".tsv" else None)
        unit = "line"
    if len(names) > MOST_COLUMNS:
        raise DataError(f"{path}: has {len(names):,} columns; {MOST_COLUMNS:,} are allowed.")
    every = range(len(names))
    peeked = tuple(values for _, values in itertools.islice(read(every), _PEEKED))
    return Table(path, names, peeked, unit, read)


def _separated(path: Path, separator: str | None) -> tuple[tuple[str, ...], Callable[[Sequence[int]], Iterator[Row]]]:
    """Returns the columns of a CSV or TSV file, and a function that reads it."""
    with _lines(path) as lines:
        first = next((line for line in lines if line.strip()), "")
        if separator is None:
            separator = max(",;\t", key=first.count)  # the comma if there is none
        (header,) = _cells(path, [first], separator) if first else ([],)
    names = tuple(name.strip() for name in header)

    def read(columns: Sequence[int]) -> Iterator[Row]:
        with _lines(path) as lines:
            headed = False
            reader = csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=True)
            for cells in _told(path, reader):
                if not any(cells) or not any(map(str.strip, cells)):
                    continue
                if not headed:
                    headed = True
                    continue
                if len(cells) != len(names):
                    raise DataError(
                        f"{path}: line {reader.line_num}: has {len(cells):,} fields; its first line names "
                        f"{len(names):,}."
                    )
                yield reader.line_num, [cells[column].strip() for column in columns]

    return names, read


def _cells(path: Path, lines: Iterable[str], separator: str) -> list[list[str]]:
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=True)
    return [*_told(path, reader)]


def _told(path: Path, reader: Any) -> Iterator[list[str]]:
    """Yields the rows of a CSV reader; its errors become one line with the number of the line in the file."""
    try:
        yield from reader
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: is no CSV ({first_line(error)}).") from None


def _json(path: Path) -> tuple[tuple[str, ...], Callable[[Sequence[int]], Iterator[Row]]]:
    """Returns the keys in the first objects of a file of JSON lines, and a function that reads it."""

    def objects() -> Iterator[tuple[int, dict[str, Any]]]:
        with _lines(path) as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                where = f"{path}: line {number}"
                value = parse_json(line.encode(), where, DataError, otherwise="is no JSON")
                if not isinstance(value, dict):
                    raise DataError(f'{where}: is no object, such as {{"path": "a.jpg", "label": "cat"}}.')
                yield number, value

    found: dict[str, None] = {}
    for _, value in itertools.islice(objects(), _PEEKED):
        found.update(dict.fromkeys(value))
        if len(found) > MOST_COLUMNS:
            break
    names = tuple(found)

    def read(columns: Sequence[int]) -> Iterator[Row]:
        wanted = [names[column] for column in columns]
        for number, value in objects():
            yield number, [value.get(name) for name in wanted]

    return names, read


@contextmanager
def _lines(path: Path) -> Iterator[Iterator[str]]:
    """Opens the lines of a text file, each of at most `MOST_LINE` characters."""
    with opened(path, DataError) as stream:
        if os.fstat(stream.fileno()).st_size > MOST_BYTES:
            raise DataError(f"{path}: is larger than {MOST_BYTES:,} bytes.")
        begin = stream.read(4)
        stream.seek(0)
        wide = begin.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = io.TextIOWrapper(stream, "utf-16" if wide else "utf-8-sig", newline="")
        yield _bounded(path, text)


def _bounded(path: Path, text: io.TextIOWrapper) -> Iterator[str]:
    number, total = 1, 0
    with refusing(path, DataError):
        try:
            while line := text.readline(MOST_LINE + 1):
                total += len(line)
                if len(line) > MOST_LINE or total > MOST_BYTES:
                    raise DataError(
                        f"{path}: line {number}: is longer than {MOST_LINE:,} characters: {shortened(line, 40)!r}."
                    )
                if "\0" in line:
                    raise DataError(f"{path}: line {number}: holds a NUL; it is no text.")
                yield line
                number += 1
        except UnicodeDecodeError:
            raise DataError(f"{path}: is not UTF-8 text near line {number:,}; save it as UTF-8.") from None
