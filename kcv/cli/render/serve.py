"""The end of a server: how many requests it has answered."""

from __future__ import annotations

from collections.abc import Mapping

from kcv.cli import terminal
from kcv.cli.parsing import Call


def show(answer: Mapping[str, int], call: Call) -> int:
    """Shows what the server has done."""
    if call.as_json:
        terminal.json_of(answer)
    else:
        terminal.show(f"{answer['requests']:,} requests answered")
    return 0
