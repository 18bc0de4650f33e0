"""The table of networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kcv.cli import terminal
from kcv.cli.console import program, table
from kcv.cli.parsing import Call


def show(rows: Sequence[Mapping[str, Any]], call: Call) -> int:
    """Shows the networks that can be trained, or how fast they are here."""
    if call.as_json:
        terminal.json_of(rows)
    elif call.arguments.get("measure"):
        terminal.show(speed_list(rows))
    else:
        terminal.show(model_list(rows))
    return 0


def model_list(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the table of networks."""
    header = ("model", "params", "GFLOPs", "px", "min px", "ImageNet weights", "for")
    body = [
        (
            row["name"],
            _millions(row["parameters"]),
            _billions(row["multiply_adds"]),
            str(row["image_size"] or "-"),
            str(row["min_image_size"]),
            row["imagenet_weights_from"],
            row["best_for"],
        )
        for row in rows
    ]
    train = f"{program()} train --model=NAME --data=path/to/images"
    notes = (
        "px: of the ImageNet weights; params and GFLOPs: without the logits",
        "GFLOPs: multiply-adds for one image at px (or 32 px), in thousands of millions",
        train,
    )
    return "\n  ".join([f"{table(body, header=header, words=(0, 5, 6))}\n", *notes])


def speed_list(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the table of measured speeds."""
    header = ("model", "params", "px", "batch", "precision", "trained/s", "predicted/s")
    body = []
    for row in rows:
        measured = row["measured"]
        rates = measured["images_per_second"]
        setting = (str(measured["image_size"]), str(measured["batch_size"]), measured["precision"]["training"])
        speeds = (f"{rates['training']:,.0f}", f"{rates['prediction']:,.0f}")
        body.append((row["name"], _millions(row["parameters"]), *setting, *speeds))
    first = rows[0]["measured"]
    return (
        f"{table(body, header=header, words=(0, 4))}\n\n"
        f"  {first['device']}: {first['hardware']}, {first['threads']} threads; images/s; predictions in float32"
    )


def _millions(number: int) -> str:
    return f"{number / 1e6:.1f}M"


def _billions(number: int | None) -> str:
    return "-" if number is None else f"{number / 1e9:.2f}"
