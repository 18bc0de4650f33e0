"""Formats text for the terminal: colours, columns and numbers. `terminal` prints the strings."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from kcv.common.text import printable, shortened

_LONGEST = 5_000  # characters in one line of a message, which may quote an untrusted file; a path may have 4,096
_CODES = {"bold": "1", "dim": "2", "green": "32", "red": "31"}
_MARK = f"\x1b{secrets.token_hex(8)}"
"""A random marker for the start of a style, so that `shown` can tell kcv's own escapes from those in untrusted text."""


def paint(text: str, style: str, stream: TextIO | None = None) -> str:
    """Marks text with a style if the stream (stdout) is a terminal and NO_COLOR is not set; see `shown`."""
    stream = stream or sys.stdout
    bare = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not stream.isatty()
    return text if bare else f"{_MARK}[{_CODES[style]}m{text}{_MARK}[0m"


def shown(text: str) -> str:
    """Returns text safe to print: control characters are escaped, except line feeds and the styles of `paint`."""
    parts = ("\n".join(map(printable, part.split("\n"))) for part in text.split(_MARK))
    return "\033".join(parts)


def message(text: object) -> str:
    """Returns one line of an error or a warning safe to print: of readable length, without control characters."""
    return printable(shortened(text, _LONGEST))


def program(name: str = "kcv") -> str:
    """Returns how a program (kcv) was called, so that suggested commands can be pasted."""
    if name == "kcv" and Path(sys.argv[0]).name == "__main__.py":
        name = "python -m kcv"
    return f"uv run {name}" if os.environ.get("UV_RUN_RECURSION_DEPTH") else name


def table(
    rows: Iterable[Sequence[str]],
    *,
    header: Sequence[str] | None = None,
    indent: int = 2,
    words: Container[int] = (0,),
) -> str:
    """Formats rows as a table: the columns in `words` are left-aligned, the others (numbers) right-aligned."""
    body = [list(row) for row in rows]
    everything = [list(header), *body] if header else body
    if not everything:
        return ""
    widths = [max(len(row[i]) for row in everything) for i in range(len(everything[0]))]
    lines = [
        " " * indent
        + "  ".join(
            cell.ljust(width) if i in words else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in everything
    ]
    if header:
        lines[0] = paint(lines[0], "dim")
    return "\n".join(lines)


def pairs(values: Mapping[str, Any]) -> str:
    """Formats names and values as two left-aligned columns, one pair per line."""
    width = max(map(len, values))
    lines = ((paint(name.ljust(width), "dim"), str(value).replace("\n", "\\n")) for name, value in values.items())
    return "\n".join(f"  {name}  {value}" for name, value in lines)


def percent(value: float | None) -> str:
    """Formats 0.98765 as `98.77%`, and None as `-`."""
    return "-" if value is None else f"{100 * value:.2f}%"


def number(value: float | None) -> str:
    """Formats a number with four decimals, and None as `-`."""
    return "-" if value is None else f"{value:.4f}"
