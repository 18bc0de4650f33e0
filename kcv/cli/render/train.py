"""A finished training run."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, cast

from kcv.cli import terminal
from kcv.cli.console import paint, pairs, program
from kcv.cli.parsing import Call
from kcv.cli.render.figures import with_interval

if TYPE_CHECKING:
    from kcv.tasks.find_lr import LearningRates
    from kcv.training.folds import Folds
    from kcv.training.run_folder import Run


def show(run: Run | LearningRates | Folds, call: Call) -> int:
    """Shows the results of a training run, of a learning-rate range test, or of a training in folds."""
    if call.arguments.get("find_lr"):
        return _show_rates(cast("LearningRates", run), call)
    from kcv.training.folds import Folds

    if isinstance(run, Folds):
        from kcv.cli.render.folds import show_folds

        return show_folds(run, call)
    run = cast("Run", run)
    if call.as_json:
        terminal.json_of(
            {
                "directory": str(run.directory),
                "model": str(run.model_path),
                "metrics": run.metrics,
                "best_epoch": run.best_epoch,
                "epochs": len(run.history),
                "seconds": run.seconds,
                "tracking": run.tracking,
            }
        )
    else:
        terminal.show(run_summary(run))
    return 0


def _show_rates(found: LearningRates, call: Call) -> int:
    """Shows the results of a learning-rate range test."""
    if call.as_json:
        terminal.json_of({**vars(found), "directory": str(found.directory)})
        return 0
    rows = {
        "suggestion": paint(f"--lr={found.suggestion:g}", "bold"),
        "the loss falls fastest at": f"{found.steepest:g}",
        "configured": f"{found.configured:g}",
        "steps": found.steps,
        "plot": found.directory / "lr_finder.png",
        "table": found.directory / "lr_finder.csv",
    }
    terminal.show("\n".join(["", pairs(rows)]))
    return 0


def run_summary(run: Run) -> str:
    """Returns the results of a training run, and the next commands."""
    metrics = run.metrics
    rows = {
        f"{metrics['split']} accuracy": paint(with_interval(metrics), "bold"),
        "epoch kept": f"{run.best_epoch} of {len(run.history)}",
        "time": f"{run.seconds:.0f} s",
        "model": run.model_path,
        "report": run.directory / "report.html",
        "tracking": run.tracking or "off",
    }
    model = shlex.quote(str(run.model_path))
    commands = [
        f"{program()} info {model}",
        f"{program()} evaluate {model}",
        f"{program()} predict IMAGE --model={model}",
    ]
    commands += _pages(run.tracking)
    return "\n".join(["", pairs(rows), "", "Next:", *(f"  {command}" for command in commands)])


def _pages(tracking: str | None) -> list[str]:
    """Returns the commands that show the run where it is tracked on this machine."""
    found = []
    for place in re.split(r", (?=\w+:)", tracking or ""):  # several trackers
        if place.startswith("sqlite"):
            found.append(f"{program('mlflow')} ui --backend-store-uri {shlex.quote(place)}")
        if place.startswith("tensorboard:"):
            found.append(f"{program('tensorboard')} --logdir {shlex.quote(place.partition(':')[2])}")
    return found
