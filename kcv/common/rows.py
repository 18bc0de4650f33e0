"""Writes rows of predictions one by one to a CSV, JSON lines or Parquet file, chosen by the suffix."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TextIO

from kcv.common.files import atomic, csv_writer
from kcv.errors import UsageError, nearest

UNSURE = "unsure"
"""The label of a row whose confidence is below the model's threshold."""

PREDICTION_SET = "prediction_set"
"""The column of the classes that belong to an image: a list of names, in CSV as a JSON array in one cell."""

SUFFIXES = (".csv", ".jsonl", ".parquet")
_PARQUET_ROWS = 4096  # rows of one row group


class RowWriter(Protocol):
    """Writes rows one at a time."""

    def write(self, row: Mapping[str, Any]) -> None:
        """Adds a row."""


def check_suffix(path: Path) -> None:
    """Raises UsageError if the file's suffix is not that of a supported format."""
    if path.suffix.lower() not in SUFFIXES:
        hint = nearest(path.suffix.lower(), SUFFIXES)
        raise UsageError(f"--output: received {str(path)!r}, allowed: a name that ends in {', '.join(SUFFIXES)}.{hint}")


@contextmanager
def open_rows(path: Path, columns: Sequence[str]) -> Iterator[RowWriter]:
    """Opens a file for rows. The file appears under its name only if the block succeeds.

    Args:
        path: path of the file; its suffix determines the format.
        columns: columns of the table. JSON lines also contain the key `probabilities` if a row has it.

    Raises:
        UsageError: the suffix is unknown.
        OutputError: the file cannot be written.
    """
    check_suffix(path)
    suffix = path.suffix.lower()
    with atomic(path) as temporary:
        if suffix == ".parquet":
            with _parquet(temporary, columns) as parquet:
                yield parquet
        else:
            # A file name that is not UTF-8 contains lone surrogates. CSV gets the original bytes; in JSON, the
            # backslash escape of a surrogate reads back as the same name.
            errors = "surrogateescape" if suffix == ".csv" else "backslashreplace"
            with temporary.open("w", encoding="utf-8", errors=errors, newline="") as stream:
                yield _CsvRows(stream, columns) if suffix == ".csv" else _JsonRows(stream, columns)


class _CsvRows:
    def __init__(self, stream: TextIO, columns: Sequence[str]) -> None:
        self._columns = columns
        self._write = csv_writer(stream)
        self._write(columns)

    def write(self, row: Mapping[str, Any]) -> None:
        cells = (row.get(column) for column in self._columns)
        self._write(json.dumps(cell, ensure_ascii=False) if isinstance(cell, list) else cell for cell in cells)


class _JsonRows:
    def __init__(self, stream: TextIO, columns: Sequence[str]) -> None:
        self._stream = stream
        self._columns = (*columns, "probabilities")

    def write(self, row: Mapping[str, Any]) -> None:
        values = {key: row[key] for key in self._columns if key in row}
        self._stream.write(json.dumps(values, ensure_ascii=False) + "\n")


@contextmanager
def _parquet(path: Path, columns: Sequence[str]) -> Iterator[RowWriter]:
    import pyarrow as pa
    from pyarrow import parquet

    def kind(name: str) -> Any:
        if name == PREDICTION_SET:
            return pa.list_(pa.string())
        return pa.float64() if name.startswith("confidence") else pa.string()

    schema = pa.schema([(name, kind(name)) for name in columns])

    class Rows:
        def __init__(self, writer: Any) -> None:
            self.writer = writer
            self.held: list[Mapping[str, Any]] = []

        def write(self, row: Mapping[str, Any]) -> None:
            self.held.append({key: utf8(value) for key, value in row.items() if key in schema.names})
            if len(self.held) >= _PARQUET_ROWS:
                self.flush()

        def flush(self) -> None:
            if self.held:
                self.writer.write_table(pa.Table.from_pylist(self.held, schema=schema))
                self.held = []

    with parquet.ParquetWriter(path, schema) as writer:
        rows = Rows(writer)
        yield rows
        rows.flush()


def utf8(value: Any) -> Any:
    """Replaces bytes in a text that are not UTF-8, because Parquet cannot store them."""
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace") if isinstance(value, str) else value
