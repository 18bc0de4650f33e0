"""An exported file and its comparison with the model."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from kcv.cli import terminal
from kcv.cli.console import paint, pairs, percent, program
from kcv.cli.parsing import Call
from kcv.exporting import formats

if TYPE_CHECKING:
    from kcv.tasks.export import Export


def show(made: Export, call: Call) -> int:
    """Shows an exported file."""
    if call.as_json:
        terminal.json_of(made.to_dict())
    else:
        terminal.show(export(made))
    return 0


def export(made: Export) -> str:
    """Returns the comparison of the file with the model, and the gains and losses of int8."""
    parity, trade = made.parity, made.trade
    kind = formats.find(made.to)
    of = f", opset {made.opset}" if "opset" in kind.options else ""
    files = " and ".join([str(made.path), *(path.name for path in made.beside)])
    rows: dict[str, Any] = {
        "file": f"{files}, {made.bytes / 1e6:.1f} MB, {made.precision}{of}",
        "checked with": made.samples,
        "logits": f"differ by up to {parity.max_difference:.1e} from Keras (allowed {parity.tolerance:.1e})",
        "same class": percent(parity.agreement),
    }
    if parity.keras_accuracy is not None:
        rows["accuracy"] = f"Keras {percent(parity.keras_accuracy)}, {kind.title} {percent(parity.onnx_accuracy)}"
    if trade is not None:
        gains = ", ".join(f"{gain:.2f}x at batch {size}" for size, gain in trade.gains.items())
        sizes = " to ".join(f"{trade.bytes[name] / 1e6:.1f}" for name in ("float32", "int8"))
        rows["int8 speed"] = f"{gains}, on this machine"
        rows["int8 accuracy"] = f"{percent(trade.int8_accuracy)} for {percent(trade.float32_accuracy)} in float32"
        rows["int8 size"] = f"{sizes} MB"
    if made.refusal is not None:
        rows["int8 refused"] = paint(f"{made.refusal}; the file is float32 (--force keeps int8)", "bold")
    command = f"{program()} {kind.next.format(shlex.quote(str(made.path)))}"
    return "\n".join([pairs(rows), "", "Next:", f"  {command}"])
