"""Prints results to stdout, and errors, warnings and kcv's own log messages to stderr. No other module prints."""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kcv.cli import console
from kcv.common.launch import Launch
from kcv.common.text import is_printable
from kcv.errors import OutputError


def show(text: str) -> None:
    """Prints a result in the main process. Raises OutputError if it cannot be written, as on a full disk."""
    if not Launch.current().is_main_process:
        return
    with _told():
        print(console.shown(text), flush=True)


def flush() -> None:
    """Flushes stdout. Raises OutputError if it cannot be written, as on a full disk."""
    with _told():
        sys.stdout.flush()


def let_go() -> None:
    """Redirects stdout to the null device, because Python's flush at exit would fail again."""
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
    """Prints a result as JSON; without `indent` on one line, for a result of many rows."""
    show(_json(values, indent))


def _json(values: Any, indent: int | None = None) -> str:
    text = json.dumps(values, indent=indent, ensure_ascii=False)
    # Non-UTF-8 bytes of a name become escapes like \udc80, control characters like \u009b; both read back unchanged.
    if text.isprintable():
        return text
    return "".join(char if is_printable(char) or char == "\n" else f"\\u{ord(char):04x}" for char in text)


def complain(text: str) -> None:
    """Prints an error."""
    line = f"{console.paint('kcv: error:', 'red', sys.stderr)} {console.message(text)}"
    print(console.shown(line), file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """Prints a warning in the main process."""
    if Launch.current().is_main_process:
        print(console.shown(f"kcv: warning: {console.message(text)}"), file=sys.stderr, flush=True)


def bug() -> None:
    """Prints the traceback of the current exception."""
    print(console.shown(traceback.format_exc()), file=sys.stderr, end="", flush=True)


class _Escaped(logging.Formatter):
    """Escapes control characters in the names of files and classes, and cuts lines that are very long."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(map(console.message, super().format(record).split("\n")))


def show_own_only() -> None:
    """Shows kcv's own messages on stderr without decoration, and hides the warnings of other packages."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Escaped("%(message)s"))
    log = logging.getLogger("kcv")
    log.handlers[:] = [handler]
    # Of several processes, the main process alone reports.
    log.setLevel(logging.INFO if Launch.current().is_main_process else logging.CRITICAL)
    log.propagate = False
    logging.getLogger().setLevel(logging.ERROR)
    if logging.lastResort is not None:  # errors of packages without their own handler
        logging.lastResort.setFormatter(_Escaped("%(message)s"))
    for name in ("mlflow", "alembic", "matplotlib", "PIL", "torch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if not sys.warnoptions:  # python -W shows them
        warnings.simplefilter("ignore")
