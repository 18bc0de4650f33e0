"""The verbs in the order of the help, and the modules of their functions, which define the parameters."""

from __future__ import annotations

from dataclasses import dataclass

FORMATS = ("text", "json")


@dataclass(frozen=True)
class Listed:
    """The location of a verb's function, which has the name of the verb.

    Attributes:
        module: the module of the function; it imports no heavy library.
        together: whether several processes (torchrun) can run the verb together.
        formats: the values of `--format`, the default first.
    """

    module: str
    together: bool = False
    formats: tuple[str, ...] = FORMATS


VERBS = {
    "train": Listed("kcv.tasks.train_from_file", together=True),
    "tune": Listed("kcv.tasks.tune"),
    "evaluate": Listed("kcv.tasks.evaluate", together=True),
    "predict": Listed("kcv.tasks.predict", together=True),
    "explain": Listed("kcv.tasks.explain"),
    "embed": Listed("kcv.tasks.embed"),
    "similar": Listed("kcv.tasks.similar"),
    "export": Listed("kcv.tasks.export"),
    "push": Listed("kcv.tasks.push"),
    "serve": Listed("kcv.tasks.serve"),
    "compare": Listed("kcv.tasks.compare", formats=(*FORMATS, "markdown")),
    "report": Listed("kcv.tasks.report"),
    "check": Listed("kcv.tasks.check"),
    "info": Listed("kcv.tasks.info"),
    "models": Listed("kcv.tasks.models"),
    "benchmark": Listed("kcv.tasks.benchmark", together=True),  # only scaling
    "completion": Listed("kcv.cli.completion"),
}
"""A new verb needs a line here, its function in `kcv/tasks`, and a module in `kcv/cli/render` that shows its result."""

RENAMED = {("benchmark", "pictures"): "images"}
"""New names of flags by verb and old name. The old names are accepted with a warning."""

FILE_FORMATS = {"export": "to"}
"""The flags, by verb, that choose the format of a file. `--format`, how results are printed, takes their values, too:
other programs call it that."""
