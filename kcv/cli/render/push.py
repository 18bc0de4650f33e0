"""A model that was published."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kcv.cli import terminal
from kcv.cli.console import pairs, program
from kcv.cli.parsing import Call

if TYPE_CHECKING:
    from kcv.tasks.push import Pushed


def show(pushed: Pushed, call: Call) -> int:
    """Shows where the model is, and how it is named."""
    if call.as_json:
        terminal.json_of(pushed.to_dict())
        return 0
    files = ", ".join(f"{name} ({size / 1e6:.1f} MB)" for name, size in pushed.files.items() if size >= 50_000)
    others = sum(size < 50_000 for size in pushed.files.values())
    rows = {"model": pushed.model, "page": pushed.page, "files": f"{files}, {others} small ones" if files else others}
    command = f"{program()} predict IMAGE --model={pushed.model}"
    terminal.show("\n".join([pairs(rows), "", "Next:", f"  {command}"]))
    return 0
