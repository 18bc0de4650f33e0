"""Feature vectors: nothing but a count if they go to a file, and otherwise one line per image."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from kcv.cli import terminal
from kcv.cli.console import percent
from kcv.cli.parsing import Call
from kcv.cli.render.figures import exit_code, failed_row
from kcv.cli.render.predict import shows_progress
from kcv.common.text import printable

__all__ = ["show", "shows_progress"]

_SHOWN = 4  # numbers of a vector


def show(rows: Iterable[Mapping[str, Any]], call: Call) -> int:
    """Prints the rows, if they are written to no file or JSON is asked for."""
    to_file = "output" in call.arguments or "pick" in call.arguments
    failed = total = 0
    for row in rows:
        total += 1
        failed += bool(row["error"])
        if call.as_json:
            vector = row["vector"]
            terminal.json_of({**row, "vector": None if vector is None else vector.tolist()}, indent=None)
        elif not to_file:
            terminal.show(_line(row))
    if "output" in call.arguments:
        logging.getLogger(__name__).info("%d rows written to %s", total, call.arguments["output"])
    return exit_code(failed)


def _line(row: Mapping[str, Any]) -> str:
    if row["error"]:
        return failed_row(row)
    vector = row["vector"]
    numbers = ", ".join(f"{number:.4f}" for number in vector[:_SHOWN].tolist())
    more = f", ... {len(vector):,} numbers" if len(vector) > _SHOWN else ""
    return f"{printable(row['path'])}  {row['label']} {percent(row['confidence'])}  [{numbers}{more}]"
