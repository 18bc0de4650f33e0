"""The table of networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kcv.cli import terminal
from kcv.cli.console import program, table
from kcv.cli.parsing import Call

if TYPE_CHECKING:
    from kcv.models.network import Network


def show(networks: Sequence[Network], call: Call) -> int:
    """Shows the networks that can be trained."""
    if call.as_json:
        terminal.json_of([network.row() for network in networks])
    else:
        terminal.show(model_list(networks))
    return 0


def model_list(networks: Sequence[Network]) -> str:
    """Returns the table of networks."""
    header = ("model", "parameters", "smallest px", "ImageNet px", "ImageNet weights", "for")
    rows = [
        (
            network.name,
            f"{network.parameters / 1e6:.1f}M",
            str(network.min_image_size),
            str(network.image_size or "-"),
            network.weights_here,
            network.best_for,
        )
        for network in networks
    ]
    train = f"{program()} train --model=NAME --data=path/to/images"
    return f"{table(rows, header=header, words=(0, 4, 5))}\n\n  parameters without those of the logits\n  {train}"
