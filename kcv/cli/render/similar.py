"""The images that are most like one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kcv.cli import terminal
from kcv.cli.console import table
from kcv.cli.parsing import Call
from kcv.common.text import printable

if TYPE_CHECKING:
    from kcv.tasks.similar import Similar


def show(found: Similar, call: Call) -> int:
    """Shows the images, the most similar first."""
    if call.as_json:
        terminal.json_of(found.to_dict())
        return 0
    rows = [(printable(row["path"]), f"{row['similarity']:.4f}", printable(row["label"])) for row in found.rows]
    terminal.show(table(rows, header=("image", "similarity", "answered as")))
    terminal.show(f"\n  of {found.compared:,} images, like {printable(found.image)}")
    return 0
