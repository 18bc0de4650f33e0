"""The verbs, in the order of the help: where the function of each is. What it takes, its function says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Listed:
    """Where the function of a verb is, which has the name of the verb.

    Attributes:
        module: that has it; it imports nothing heavy.
        together: whether several processes (torchrun) do it together.
    """

    module: str
    together: bool = False


VERBS = {
    "train": Listed("kcv.tasks.train_from_file", together=True),
    "evaluate": Listed("kcv.tasks.evaluate", together=True),
    "predict": Listed("kcv.tasks.predict", together=True),
    "explain": Listed("kcv.tasks.explain"),
    "export": Listed("kcv.tasks.export"),
    "compare": Listed("kcv.tasks.compare"),
    "report": Listed("kcv.tasks.report"),
    "check": Listed("kcv.tasks.check"),
    "info": Listed("kcv.tasks.info"),
    "models": Listed("kcv.tasks.models"),
    "benchmark": Listed("kcv.tasks.benchmark", together=True),  # scaling alone
    "completion": Listed("kcv.cli.completion"),
}
"""A new verb is a line here, its function in `kcv/tasks`, and how its answer is shown in `kcv/cli/render`."""

RENAMED = {("benchmark", "pictures"): "images"}
"""The new names of flags by verb and old name. The old ones are accepted with a warning."""
