"""The only place that prints: results to stdout, complaints to stderr."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kcv.cli import console
from kcv.common.launch import Launch
from kcv.common.text import is_plain, plain
from kcv.errors import OutputError


def show(text: str) -> None:
    """Prints a result; of several processes, the first does. Raises OutputError where the output has no room for it."""
    if not Launch.current().is_main_process:
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


def json_of(values: Any, *, indent: int | None = 2) -> None:
    """Prints a result as JSON; without `indent` on one line, as one of many."""
    show(_json(values, indent))


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


def warn(text: str) -> None:
    """Prints what the user should know; of several processes, the first does."""
    if Launch.current().is_main_process:
        print(console.shown(f"kcv: warning: {plain(text)}"), file=sys.stderr, flush=True)


def bug() -> None:
    """Prints the traceback of the exception that is being handled."""
    print(console.shown(traceback.format_exc()), file=sys.stderr, end="", flush=True)
