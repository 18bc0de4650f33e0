"""The table of networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kcv.cli import terminal
from kcv.cli.console import program, table
from kcv.cli.parsing import Call

if TYPE_CHECKING:
    from kcv.models.catalog import Entry


def show(entries: Sequence[Entry], call: Call) -> int:
    """Shows the networks that can be trained."""
    if call.as_json:
        from kcv.models import catalog

        terminal.json_of(list(catalog.rows()))
    else:
        terminal.show(model_list(entries))
    return 0


def model_list(entries: Sequence[Entry]) -> str:
    """Returns the table of architectures."""
    header = ("model", "parameters", "smallest px", "ImageNet px", "ImageNet weights", "for")
    rows = [
        (
            entry.name,
            f"{entry.parameters / 1e6:.1f}M",
            str(entry.min_image_size),
            str(entry.image_size or "-"),
            entry.weights_here,
            entry.best_for,
        )
        for entry in entries
    ]
    train = f"{program()} train --model=NAME --data=path/to/images"
    return f"{table(rows, header=header, words=(0, 4, 5))}\n\n  parameters without those of the logits\n  {train}"
