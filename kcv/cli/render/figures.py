"""Output that several verbs share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kcv.cli.console import paint, percent
from kcv.cli.terminal import complain
from kcv.common.text import printable
from kcv.errors import KcvError


def with_interval(metrics: Mapping[str, Any]) -> str:
    """Returns the accuracy with its 95% interval and the number of images."""
    low, high = metrics["accuracy_ci95"]
    return f"{percent(metrics['accuracy'])} (95% interval {percent(low)} to {percent(high)}, n = {metrics['n']:,})"


def failed_row(row: Mapping[str, Any]) -> str:
    """Returns the line of an image that could not be read."""
    return f"{printable(row['path'])}  {paint('error: ' + printable(row['error']), 'red')}"


def exit_code(failed: int) -> int:
    """Returns the exit code for a number of failed rows, and reports them."""
    if failed:
        complain(f"{failed} image{'s' if failed > 1 else ''} could not be read; see the rows with an error.")
    return KcvError.exit_code if failed else 0
