"""Predictions: one line per image, printed immediately, and the ranking of a single image."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from kcv.cli import terminal
from kcv.cli.console import paint, percent
from kcv.cli.parsing import Call
from kcv.cli.render.figures import exit_code, failed_row
from kcv.common.rows import PREDICTION_SET
from kcv.common.text import printable


def shows_progress(call: Call) -> bool:
    """Returns False if rows are printed to the terminal, where a progress bar would interfere with them."""
    on_terminal = sys.stdout.isatty() and ("output" not in call.arguments or call.as_json)
    return not on_terminal


def show(rows: Iterable[Mapping[str, Any]], call: Call) -> int:
    """Prints each prediction immediately; predictions written to a file are not printed as text."""
    output = call.arguments.get("output")
    failed = total = 0
    held: Mapping[str, Any] | None = None  # the first row: a single image is shown with its ranking
    for row in rows:
        total += 1
        failed += bool(row["error"])
        if call.as_json:
            terminal.json_of(row, indent=None)
        elif total == 1:
            held = row
        elif output is None:
            if held is not None:
                terminal.show(row_line(held))
                held = None
            terminal.show(row_line(row))
    if held is not None and total == 1:
        terminal.show(row_line(held))
        if not held["error"]:
            terminal.show(ranking(held))
    if output is not None:
        logging.getLogger(__name__).info("%d rows written to %s", total, output)
    return exit_code(failed)


def row_line(row: Mapping[str, Any]) -> str:
    """Returns a prediction as one line."""
    if row["error"]:
        return failed_row(row)
    path = printable(row["path"])
    line = f"{path}  {paint(str(row['label']), 'bold')}  {percent(row['confidence'])}"
    names, probabilities = _ranked(row)
    if row["label"] != names[0]:  # unsure
        line = f"{path}  {paint(str(row['label']), 'bold')}  {names[0]} {percent(row['confidence'])}"
    others = zip(names[1:], probabilities[1:], strict=True)
    line += "".join(f"  {name} {percent(p)}" for name, p in others)
    return line + (f"  {{{', '.join(row[PREDICTION_SET])}}}" if PREDICTION_SET in row else "")


def ranking(row: Mapping[str, Any]) -> str:
    """Returns the ranked classes of a prediction, each with a bar."""
    names, probabilities = _ranked(row)
    width = max(map(len, names))
    return "\n".join(
        f"  {name.ljust(width)}  {percent(p):>7}  {paint('#' * round(30 * p), 'green')}".rstrip()
        for name, p in zip(names, probabilities, strict=True)
    )


def _ranked(row: Mapping[str, Any]) -> tuple[list[str], list[float]]:
    """Returns the ranked classes of a row and their probabilities, most likely first."""
    names, probabilities = [str(row.get("likeliest") or row["label"])], [float(row["confidence"])]
    rank = 2
    while row.get(f"label_{rank}"):
        names.append(str(row[f"label_{rank}"]))
        probabilities.append(float(row[f"confidence_{rank}"]))
        rank += 1
    return names, probabilities
