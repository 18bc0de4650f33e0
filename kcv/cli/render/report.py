"""The location of a report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kcv.cli import terminal
from kcv.cli.console import pairs
from kcv.cli.parsing import Call

if TYPE_CHECKING:
    from kcv.tasks.report import Report


def show(report: Report, call: Call) -> int:
    """Shows the paths of the page and the model card."""
    if call.as_json:
        terminal.json_of({"page": str(report.page), "card": str(report.card)})
    else:
        terminal.show(pairs({"page": report.page, "model card": report.card}))
    return 0
