"""A finished training in folds."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from kcv.cli import terminal
from kcv.cli.console import paint, pairs, percent, program
from kcv.cli.parsing import Call
from kcv.cli.render.figures import with_interval

if TYPE_CHECKING:
    from kcv.tasks.train_folds import Folds


def show_folds(folds: Folds, call: Call) -> int:
    """Shows the results of a training in folds."""
    if call.as_json:
        terminal.json_of(
            {
                "directory": str(folds.directory),
                "model": str(folds.model_path),
                "metrics": folds.metrics,
                "seconds": folds.seconds,
            }
        )
    else:
        terminal.show(folds_summary(folds))
    return 0


def folds_summary(folds: Folds) -> str:
    """Returns the results of a training in folds, and the next command."""
    metrics = folds.metrics
    rows = {"out-of-fold accuracy": paint(with_interval(metrics), "bold")}
    rows |= {f"fold {row['fold']}": f"{percent(row['accuracy'])} of {row['n']:,}" for row in metrics["folds"]}
    final = metrics["final"]["metrics"]
    if final is not None and final["split"] == "test":
        rows["test accuracy"] = f"{with_interval(final)}, {metrics['final']['file']}"
    rows |= {
        "time": f"{folds.seconds:.0f} s",
        "model": str(folds.model_path),
        "suspected labels": f"{metrics['label_errors']['suspects']:,}, in {folds.directory / 'label_errors.html'}",
        "predictions": str(folds.directory / "out_of_fold.csv"),
    }
    model = shlex.quote(str(folds.model_path))
    return "\n".join(["", pairs(rows), "", "Next:", f"  {program()} predict IMAGE --model={model}"])
