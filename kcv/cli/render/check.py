"""The findings of a data check."""

from __future__ import annotations

import textwrap
from collections import defaultdict
from typing import TYPE_CHECKING

from kcv.cli import terminal
from kcv.cli.console import paint
from kcv.cli.parsing import Call
from kcv.common.text import printable
from kcv.errors import KcvError

if TYPE_CHECKING:
    from kcv.quality.findings import Finding
    from kcv.tasks.check import DataCheck

_SHOWN = 3  # findings per kind
_WIDTH = 220


def show(found: DataCheck, call: Call) -> int:
    """Shows the findings; the exit code is 2 if there are errors among them."""
    if call.as_json:
        terminal.json_of(found.to_dict())
    else:
        terminal.show(data_check(found, call.arguments.get("output")))
    return 0 if found.passed else KcvError.exit_code


def data_check(found: DataCheck, written: str | None) -> str:
    """Returns the first findings of each kind, and their number.

    Args:
        found: the findings.
        written: the file that contains all of them, if there is one.
    """
    from kcv.quality.findings import KINDS

    images = ", ".join(f"{count:,} {split}" for split, count in found.counts.items())
    lines = [f"  {found.data}: {images} images of {len(found.class_names)} classes"]
    lines += [f"    {line}" for line in (found.understood.lines() if found.understood else ())]
    by_kind: dict[str, list[Finding]] = defaultdict(list)
    for finding in found.findings:
        by_kind[finding.kind].append(finding)
    for kind, findings in by_kind.items():
        severity, meaning = KINDS[kind]
        title = f"{severity}: {len(findings):,} x {meaning}"
        lines += ["", "  " + (paint(title, "red") if severity == "error" else paint(title, "bold"))]
        findings = sorted(findings, key=lambda finding: -(finding.similarity or 0))
        lines += [f"    {textwrap.shorten(printable(finding.message), _WIDTH)}" for finding in findings[:_SHOWN]]
        if len(findings) > _SHOWN:
            lines.append(paint(f"    ... and {len(findings) - _SHOWN:,} more", "dim"))
    lines += ["", *_summary(found)]
    if found.labels is not None:
        lines.append(f"  {len(found.labels.rows):,} labels are suspected, most likely first: {found.page}")
    if found.augmented is not None:
        lines.append(f"  augmented images: {found.augmented}")
    if written is not None:
        lines.append(f"  written to {written}")
    elif len(found.findings) > _SHOWN:
        lines.append("  --output=findings.csv (or .json) writes all of them")
    return "\n".join(lines)


def _summary(found: DataCheck) -> list[str]:
    lines = []
    for split, count in found.leaked().items():
        exact = found.leaked(near=False).get(split, 0)
        share = f"{100 * count / found.counts[split]:.1f}%"
        lines.append(f"  {count:,} of {found.counts[split]:,} {split} images ({share}) are in train, too: "
                     f"{exact:,} exactly, {count - exact:,} nearly")  # fmt: skip
    if not found.findings:
        return [f"  {paint('nothing found', 'green')}"]
    numbers = ((found.errors, "error"), (found.warnings, "warning"))
    return [*lines, "  " + ", ".join(f"{n:,} {word}{'' if n == 1 else 's'}" for n, word in numbers)]
