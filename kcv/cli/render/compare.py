"""The comparison of runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kcv.cli import terminal
from kcv.cli.console import number, paint, percent, table
from kcv.cli.parsing import Call
from kcv.reporting.markdown import code, literal
from kcv.reporting.markdown import table as markdown_table

if TYPE_CHECKING:
    from kcv.tasks.compare import Comparison


def show(found: Comparison, call: Call) -> int:
    """Shows the comparison of runs."""
    if call.as_json:
        terminal.json_of(found.to_dict())
    elif call.format == "markdown":
        terminal.show(markdown_of(found))
    else:
        terminal.show(comparison(found))
    return 0


def comparison(found: Comparison) -> str:
    """Returns the table of runs, and the pairs that differ significantly."""
    header = ("run", "model", "accuracy", "95% interval", "macro F1", "parameters", "MB", "ms per image", "minutes")
    rows = [
        (
            str(row["name"]),
            str(row["model"]),
            percent(row["accuracy"]),
            f"{percent(row['accuracy_low'])} to {percent(row['accuracy_high'])}",
            number(row["macro_f1"]),
            f"{row['parameters'] / 1e6:.2f}M",
            f"{row['bytes'] / 1e6:.1f}",
            f"{row['latency_ms']:.1f}",
            "-" if row["minutes"] is None else f"{row['minutes']:.1f}",
        )
        for row in found.rows
    ]
    corrected = ", p corrected for the number of pairs (Holm)" if len(found.pairs) > 1 else ""
    lines = [table(rows, header=header, words=(0, 1)), "", f"  on {found.images}; McNemar's exact test{corrected}"]
    lines += [f"  {paint(pair.words(), 'bold')}" for pair in found.pairs]
    lines += [f"  warning: {warning}" for warning in found.warnings]
    if found.directory is not None:
        lines.append(f"  written to {found.directory}")
    return "\n".join(lines)


def markdown_of(found: Comparison) -> str:
    """Returns the same in Markdown, with the command, the calibration and the speed of each run."""
    header = ("run", "model", "parameters (trained)", "command", "accuracy (95% interval)", "macro F1", "ECE", "MB",
              "ms per image", "minutes", "images/s")  # fmt: skip
    rows = [
        (
            literal(row["name"]),
            literal(row["model"]),
            f"{row['parameters'] / 1e6:.2f}M ({row['trained_parameters']:,})",
            "-" if row["command"] is None else code(row["command"]),
            f"{percent(row['accuracy'])} ({percent(row['accuracy_low'])} to {percent(row['accuracy_high'])})",
            number(row["macro_f1"]),
            number(row["ece"]),
            f"{row['bytes'] / 1e6:.1f}",
            f"{row['latency_ms']:.1f}",
            "-" if row["minutes"] is None else f"{row['minutes']:.1f}",
            "-" if row["images_per_second"] is None else f"{row['images_per_second']:,.0f}",
        )
        for row in found.rows
    ]
    corrected = ", p corrected for the number of pairs (Holm)" if len(found.pairs) > 1 else ""
    lines = [markdown_table(header, rows), "", f"On {literal(found.images)}; McNemar's exact test{corrected}:", ""]
    lines += [f"- {literal(line)}" for line in (*(pair.words() for pair in found.pairs), *found.warnings)]
    return "\n".join(lines)
