"""The command line: Fire's verbs, each thin. Only this module prints, and only its verbs import what is heavy."""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kcv import __version__
from kcv.cli import console, messages
from kcv.cli import help as helppage
from kcv.cli.options import check, check_words
from kcv.cli.verbs import VERBS, find_verb
from kcv.errors import KcvError, UsageError
from kcv.files import model_file

EXIT_BUG, EXIT_USER, EXIT_INTERRUPTED, EXIT_PIPE = 1, 2, 130, 141


def train(*operands: str, **flags: str) -> int:
    """Trains a model and leaves a run folder with it."""
    from kcv.config import Config

    values, overrides = check(VERBS["train"], operands, flags)
    config = Config.load(values["config"], **overrides)
    from kcv import training

    run = training.train(config)
    if values["format"] == "json":
        _print_json(
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
        _print(console.run_summary(run))
    return 0


def evaluate(*operands: str, **flags: str) -> int:
    """Measures a model on a split."""
    values, _ = check(VERBS["evaluate"], operands, flags)
    from kcv import evaluation

    result = evaluation.evaluate(
        model_file(values["model"]),
        data=values["data"],
        split=values["split"],
        output_dir=Path(values["output_dir"]) if values["output_dir"] else None,
        batch_size=values["batch_size"],
        device=values["device"],
        progress=True,
    )
    if values["format"] == "json":
        _print_json({**result.metrics, "directory": str(result.directory)})
        return 0
    _print(console.evaluation(result.metrics, result.directory))
    return 0


def predict(*operands: str, **flags: str) -> int:
    """Says what is on pictures."""
    values, _ = check(VERBS["predict"], operands, flags)
    if values["model"] is None:
        raise UsageError("predict needs --model=MODEL: a model file (model.keras), or the run folder that holds it.")
    from kcv import prediction

    # Rows that appear on the terminal show how far it is; a bar among them would only be in their way.
    rows_on_terminal = sys.stdout.isatty() and (values["output"] is None or values["format"] == "json")
    rows = prediction.predict(
        values["path"],
        model_file(values["model"]),
        top_k=values["top_k"],
        output=Path(values["output"]) if values["output"] else None,
        batch_size=values["batch_size"],
        device=values["device"],
        progress=not rows_on_terminal,
    )
    failed = _print_rows(rows, values)
    if failed:
        _complain(f"{failed} picture{'s' if failed > 1 else ''} could not be read; see the rows with an error.")
    return EXIT_USER if failed else 0


def info(*operands: str, **flags: str) -> int:
    """Shows what is in a model file."""
    values, _ = check(VERBS["info"], operands, flags)
    from kcv.artifact import read_info

    path = model_file(values["model"])
    content = read_info(path)
    if values["format"] == "json":
        _print_json({"path": str(path), "bytes": path.stat().st_size, **content.model_dump(mode="json")})
        return 0
    _print(console.model_card(content, path))
    return 0


def models(*operands: str, **flags: str) -> int:
    """Lists the models that can be trained."""
    values, _ = check(VERBS["models"], operands, flags)
    from kcv.models import catalog

    if values["format"] == "json":
        _print_json(list(catalog.rows()))
    else:
        _print(console.model_list(catalog.ENTRIES))
    return 0


def benchmark(*operands: str, **flags: str) -> int:
    """Measures kcv beside what its users would use instead."""
    values, _ = check(VERBS["benchmark"], operands, flags)
    what, shape = values.pop("what"), values.pop("format")
    given = {name: value for name, value in values.items() if value is not None}
    if what == "data":
        for name, default in (("model", None), ("precision", "auto")):
            if given.pop(name, default) != default:
                raise UsageError(f"benchmark data has no --{name}; benchmark train has.")
    from kcv import benchmark as benchmarks

    rows = benchmarks.benchmark_data(**given) if what == "data" else benchmarks.benchmark_training(**given)
    if shape == "json":
        _print_json(rows)
    else:
        _print(console.data_benchmark(rows) if what == "data" else console.training_benchmark(rows))
    return 0


_VERB_FUNCTIONS: dict[str, Callable[..., int]] = {
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "info": info,
    "models": models,
    "benchmark": benchmark,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: the words after the program's name; those of the process by default.

    Returns:
        The exit code: 0 done, 2 something the user can fix, 130 interrupted, 1 a bug.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a class name must not fail on a terminal's old encoding
    try:
        code = _run(words)
        sys.stdout.flush()
        return code
    except KcvError as error:
        for line in str(error).splitlines():
            _complain(line)
        return error.exit_code
    except KeyboardInterrupt:
        _complain("interrupted.")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has left; Python must not fail once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE
    except Exception:
        traceback.print_exc()
        return EXIT_BUG


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        _print(helppage.page(find_verb(words[1])) if len(words) > 1 and words[0] == "help" else helppage.overview())
        return 0
    if words[0] in ("--version", "-V"):
        _print(f"kcv {__version__}")
        return 0
    verb = find_verb(words[0])
    if any(word in ("-h", "--help") for word in words[1:]):
        _print(helppage.page(verb))
        return 0
    check_words(verb, words[1:])
    messages.show_own_only()
    import fire
    from fire.decorators import SetParseFn

    # Values stay as typed: Fire would make a tuple of `a,b` and a number of a class called 7. The separator is a word
    # that nobody types, because Fire's own, `-`, would cut a command in two.
    function = SetParseFn(str)(_VERB_FUNCTIONS[verb.name])
    command = [verb.name, *words[1:], "--", "--separator=\N{SYMBOL FOR UNIT SEPARATOR}"]
    code = fire.Fire({verb.name: function}, command=command, name="kcv", serialize=lambda _: None)
    return int(code)


def _print_rows(rows: Iterable[Mapping[str, Any]], values: Mapping[str, Any]) -> int:
    """Prints predictions as they come and returns how many pictures failed."""
    failed = total = 0
    held: Mapping[str, Any] | None = None  # one row is kept back: a single picture is shown with its ranking
    for row in rows:
        total += 1
        failed += bool(row["error"])
        if values["format"] == "json":
            _print(json.dumps(row, ensure_ascii=False))
        elif total == 1:
            held = row
        elif values["output"] is None:
            if held is not None:
                _print(console.row_line(held))
                held = None
            _print(console.row_line(row))
    if held is not None and total == 1:
        _print(console.row_line(held))
        if not held["error"]:
            _print(console.ranking(held))
    if values["output"] is not None:
        logging.getLogger(__name__).info("%d rows written to %s", total, values["output"])
    return failed


def _print(text: str) -> None:
    print(text, flush=True)


def _print_json(values: Any) -> None:
    _print(json.dumps(values, indent=2, ensure_ascii=False))


def _complain(text: str) -> None:
    print(f"{console.paint('kcv: error:', 'red', sys.stderr)} {text}", file=sys.stderr, flush=True)
