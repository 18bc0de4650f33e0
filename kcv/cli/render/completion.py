"""A completion script, printed unchanged."""

from __future__ import annotations

from kcv.cli import terminal
from kcv.cli.parsing import Call


def show(script: str, call: Call) -> int:
    """Prints the script."""
    if call.as_json:
        terminal.json_of({"shell": call.arguments["shell"], "script": script})
    else:
        terminal.show(script)
    return 0
