"""The only place that prints: results to stdout, complaints to stderr."""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from kcv.cli import console, results
from kcv.common.launch import Launch
from kcv.common.text import is_plain, plain
from kcv.errors import OutputError


def show(text: str) -> None:
    """Prints a result; of several processes, the first does. Raises OutputError where the output has no room for it."""
    if not Launch.current().first:
        return
    with _told():
        print(console.shown(text), flush=True)


def flush() -> None:
    """Writes what is held back. Raises OutputError where the output has no room for it."""
    with _told():
        sys.stdout.flush()


def let_go() -> None:
    """Turns to nowhere what can no longer be written: Python would fail once more when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        let_go()
        raise OutputError(f"cannot write to standard output: {error.strerror or error}") from None


def json_of(values: Any) -> None:
    """Prints a result as JSON."""
    show(_json(values, indent=2))


def _json(values: Any, indent: int | None = None) -> str:
    text = json.dumps(values, indent=indent, ensure_ascii=False)
    # Bytes of a name that are not UTF-8 become \udc80, what a terminal would obey \u009b: read back, they are the same.
    if text.isprintable():
        return text
    return "".join(char if is_plain(char) or char == "\n" else f"\\u{ord(char):04x}" for char in text)


def complain(text: str) -> None:
    """Prints what went wrong."""
    line = f"{console.paint('kcv: error:', 'red', sys.stderr)} {plain(text)}"
    print(console.shown(line), file=sys.stderr, flush=True)


def bug() -> None:
    """Prints the traceback of the exception that is being handled."""
    print(console.shown(traceback.format_exc()), file=sys.stderr, end="", flush=True)


def rows(predicted: Iterable[Mapping[str, Any]], values: Mapping[str, Any]) -> int:
    """Prints predictions as they come and returns how many images failed.

    Args:
        predicted: rows of `kcv.predict`.
        values: the options `format` and `output` of the verb.
    """
    failed = total = 0
    held: Mapping[str, Any] | None = None  # one row is kept back: a single image is shown with its ranking
    for row in predicted:
        total += 1
        failed += bool(row["error"])
        if values["format"] == "json":
            show(_json(row))
        elif total == 1:
            held = row
        elif values["output"] is None:
            if held is not None:
                show(results.row_line(held))
                held = None
            show(results.row_line(row))
    if held is not None and total == 1:
        show(results.row_line(held))
        if not held["error"]:
            show(results.ranking(held))
    if values["output"] is not None:
        logging.getLogger(__name__).info("%d rows written to %s", total, values["output"])
    return failed


def explanations(rows: Iterable[Mapping[str, Any]], shape: str) -> int:
    """Prints explanations as they come and returns how many images failed.

    Args:
        rows: of `kcv.explain`.
        shape: `text` or `json`.
    """
    failed = 0
    drawn: list[str] = []
    for row in rows:
        failed += bool(row["error"])
        drawn += [] if row["error"] else [row["overlay"]]
        show(_json(row) if shape == "json" else results.explanation(row))
    if len(drawn) > 1 and shape == "text":
        show(results.grid_line(drawn[0]))
    return failed
