"""Explanations: one line per image, printed immediately, and the path of the grid of all images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kcv.cli import terminal
from kcv.cli.console import paint, percent
from kcv.cli.parsing import Call
from kcv.cli.render.figures import exit_code, failed_row
from kcv.common.text import printable


def show(rows: Iterable[Mapping[str, Any]], call: Call) -> int:
    """Prints each explanation immediately."""
    failed = 0
    drawn: list[str] = []
    for row in rows:
        failed += bool(row["error"])
        drawn += [] if row["error"] else [row["overlay"]]
        if call.as_json:
            terminal.json_of(row, indent=None)
        else:
            terminal.show(explanation(row))
    if len(drawn) > 1 and not call.as_json:
        terminal.show(grid_line(drawn[0]))
    return exit_code(failed)


def explanation(row: Mapping[str, Any]) -> str:
    """Returns an explanation as one line: the explained class and the files, with their folder only once."""
    if row["error"]:
        return failed_row(row)
    beside, heatmap = (Path(row[key]).name for key in ("side_by_side", "heatmap"))
    line = f"{printable(row['path'])}  {paint(str(row['label']), 'bold')}  {percent(row['probability'])}"
    line += printable(f"  {row['overlay']}, {beside}, {heatmap}")
    return line + (f"  {paint('warning: ' + str(row['warning']), 'red')}" if row["warning"] else "")


def grid_line(overlay: str) -> str:
    """Returns the line with the path of the grid of all images, which is in the folder of the overlays."""
    return f"side by side: {Path(overlay).with_name('grid.png')}"
