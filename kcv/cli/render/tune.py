"""The outcome of a search."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from kcv.cli import terminal
from kcv.cli.console import paint, pairs, percent, program, table
from kcv.cli.parsing import Call

if TYPE_CHECKING:
    from kcv.tasks.tune import Tuning

_MOST_ROWS = 10


def show(found: Tuning, call: Call) -> int:
    """Shows the outcome of a search."""
    if call.as_json:
        terminal.json_of(found.to_dict())
    else:
        terminal.show(summary(found))
    return 0


def summary(found: Tuning) -> str:
    """Returns the best trials, how the winner does on the test split, and the next commands."""
    by_number = {row["trial"]: row for row in found.trials}
    default = by_number.get(0)
    rows: dict[str, Any] = {}
    if found.best is not None:
        best = by_number[found.best]
        rows[f"best {found.monitor}"] = paint(f"{best['value']:.4f}, trial {found.best}", "bold")
    if default is not None:
        value = "-" if default["value"] is None else f"{default['value']:.4f}"
        rows["your configuration"] = value if default["state"] == "complete" else f"{value}, {default['state']}"
    states = [row["state"] for row in found.trials]
    rows["trials"] = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    if found.folds is not None:
        rows["trials"] += f"; each in {found.folds} folds, judged by their mean"
    rows["time"] = f"{found.seconds:.0f} s"
    if found.importance:
        rows["matters"] = ", ".join(f"{key} {100 * share:.0f}%" for key, share in found.importance.items())
    rows |= {"study": found.directory, "page": found.page, "tracking": found.tracking or "off"}
    lines = ["", pairs(rows), "", *_best_trials(found), *_on_test(found)]
    lines += [f"  {note}" for note in found.notes]
    return "\n".join([*lines, "", "Next:", *(f"  {command}" for command in _commands(found))])


def _best_trials(found: Tuning) -> list[str]:
    """Returns the table of the best trials."""
    complete = [row for row in found.trials if row["state"] == "complete"]
    higher = found.monitor.endswith("accuracy")
    ranked = sorted(complete, key=lambda row: -row["value"] if higher else row["value"])
    ranked = sorted(ranked[:_MOST_ROWS], key=lambda row: row["trial"] != found.best)
    keys = list(dict.fromkeys(key for row in found.trials for key in row["params"]))
    header = ("trial", found.monitor, *(key.rpartition(".")[2] for key in keys))
    rows = [(str(row["trial"]), f"{row['value']:.4f}", *(_shown(row["params"], key) for key in keys)) for row in ranked]
    return [table(rows, header=header, words=()), ""] if rows else []


def _on_test(found: Tuning) -> list[str]:
    """Returns the test accuracies by seed, and the comparison in words."""
    if not found.test:
        return []
    rows = [
        (row["who"], str(row["seed"]), percent(row["accuracy"]),
         f"{percent(row['accuracy_low'])} to {percent(row['accuracy_high'])}")
        for row in found.test
    ]  # fmt: skip
    lines = [table(rows, header=("test split", "seed", "accuracy", "95% interval"), words=(0,)), ""]
    return [*lines, *(f"  {paint(pair.words(), 'bold')}" for pair in found.pairs)]


def _commands(found: Tuning) -> list[str]:
    """Returns the commands to go on with."""
    commands = []
    if found.best_config is not None:
        commands.append(f"{program()} train {shlex.quote(str(found.best_config))}")
    if found.best_run is not None:
        commands.append(f"{program()} evaluate {shlex.quote(str(found.best_run))}")
    return [*commands, f"{program()} tune --resume={shlex.quote(str(found.directory))} --trials=N"]


def _shown(params: dict[str, Any], key: str) -> str:
    value = params.get(key)
    if key not in params:
        return "-"
    return "null" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
