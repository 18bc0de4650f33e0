"""What the verbs do: each takes words and flags, calls kcv's function of that name, and shows the answer."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from kcv.cli import checks, comparisons, results, terminal
from kcv.cli.benchmarks import benchmark
from kcv.cli.options import check, config_keys
from kcv.cli.verbs import VERBS
from kcv.common.files import expanded, model_file
from kcv.common.untrusted import inside
from kcv.errors import KcvError, UsageError


def train(*operands: str, **flags: str) -> int:
    """Trains a model and leaves a run folder with it."""
    from kcv.config import Config

    values, overrides = check(VERBS["train"], operands, flags)
    resume = expanded(values["resume"]) if values["resume"] else None
    config = None
    chosen: dict[str, Any] = {}
    if resume is None or values["config"] or overrides:
        begun = resume and inside(resume, "config.yaml", error=UsageError)
        config = Config.load(values["config"] or begun, **overrides)
    if resume and not values["config"]:  # what else is in the folder's configuration, the user may never have seen
        chosen = {"named": {config_keys().resolve(name) or name for name in overrides}}
    from kcv.tasks import train as training

    run = training.train(config, resume=resume, **chosen)
    if values["format"] == "json":
        told: dict[str, Any] = {"directory": str(run.directory), "model": str(run.model_path), "metrics": run.metrics}
        told |= {"best_epoch": run.best_epoch, "epochs": len(run.history)}
        terminal.json_of({**told, "seconds": run.seconds, "tracking": run.tracking})
    else:
        terminal.show(results.run_summary(run))
    return 0


def evaluate(*operands: str, **flags: str) -> int:
    """Measures a model on a split."""
    values, _ = check(VERBS["evaluate"], operands, flags)
    from kcv.tasks import evaluate as evaluation

    result = evaluation.evaluate(
        model_file(values["model"]),
        data=values["data"],
        split=values["split"],
        output_dir=expanded(values["output_dir"]) if values["output_dir"] else None,
        batch_size=values["batch_size"],
        device=values["device"],
        calibrate=bool(values["calibrate"]),
        abstain_precision=values["abstain_precision"],
        explain=bool(values["explain"]),
        plots=bool(values["plots"]),
        progress=True,
    )
    if values["format"] == "json":
        more = {"explanations": result.explanations} if result.explanations else {}
        terminal.json_of({**result.metrics, **more, "directory": str(result.directory)})
        return 0
    if result.explanations:
        terminal.show(results.explanations(result.explanations) + "\n")
    terminal.show(results.evaluation(result.metrics, result.directory))
    return 0


def predict(*operands: str, **flags: str) -> int:
    """Says what is on images."""
    values, _ = check(VERBS["predict"], operands, flags)
    if values["model"] is None:
        raise UsageError("predict needs --model=MODEL: a model file (model.keras, model.onnx), or a run folder.")
    from kcv import images
    from kcv.tasks import predict as prediction

    given: Any = values["path"]
    if "-" in given:
        if len(given) > 1:
            raise UsageError("predict: - stands alone; the list on standard input names all images.")
        if sys.stdin is None:
            raise UsageError("predict -: standard input is closed.")
        given = images.read_list(sys.stdin.buffer)

    # Rows that appear on the terminal show how far it is; a bar among them would only be in their way.
    rows_on_terminal = sys.stdout.isatty() and (values["output"] is None or values["format"] == "json")
    rows = prediction.predict(
        given,
        model_file(values["model"]),
        top_k=values["top_k"],
        threshold=values["threshold"],
        output=expanded(values["output"]) if values["output"] else None,
        batch_size=values["batch_size"],
        device=values["device"],
        recursive=bool(values["recursive"]),
        progress=not rows_on_terminal,
        resume=bool(values["resume"]),
    )
    return _code(terminal.rows(rows, values))


def explain(*operands: str, **flags: str) -> int:
    """Draws heat maps of images."""
    values, _ = check(VERBS["explain"], operands, flags)
    if values["model"] is None:
        raise UsageError("explain needs --model=MODEL: a model file (model.keras), or a run folder.")
    from kcv.tasks import explain as explaining

    rows = explaining.explain(
        values["path"],
        model_file(values["model"]),
        method=values["method"],
        class_name=values["class_name"],
        layer=values["layer"],
        output=expanded(values["output"]) if values["output"] else None,
        batch_size=values["batch_size"],
        device=values["device"],
        recursive=bool(values["recursive"]),
    )
    return _code(terminal.explanations(rows, values["format"]))


def _code(failed: int) -> int:
    """Returns the exit code of rows of which some have an error, and complains about them."""
    if failed:
        terminal.complain(f"{failed} image{'s' if failed > 1 else ''} could not be read; see the rows with an error.")
    return KcvError.exit_code if failed else 0


def export(*operands: str, **flags: str) -> int:
    """Exports a model to ONNX."""
    values, _ = check(VERBS["export"], operands, flags)
    from kcv.tasks import export as exporting

    made = exporting.export(
        model_file(values["model"]),
        values["output"],
        precision=values["precision"],
        opset=int(values["opset"]),
        samples=values["samples"],
        force=bool(values["force"]),
    )
    if values["format"] == "json":
        terminal.json_of(made.to_dict())
    else:
        terminal.show(results.export(made))
    return 0


def check_data(*operands: str, **flags: str) -> int:
    """Checks data before training."""
    values, _ = check(VERBS["check"], operands, flags)
    from kcv.tasks.check import check as check_images

    found = check_images(values["data"], values["output"], similarity=values["similarity"], progress=True)
    if values["format"] == "json":
        terminal.json_of(found.to_dict())
    else:
        terminal.show(checks.data_check(found, values["output"]))
    return KcvError.exit_code if found.errors or (values["strict"] and found.warnings) else 0


def compare(*operands: str, **flags: str) -> int:
    """Compares runs on the same images."""
    values, _ = check(VERBS["compare"], operands, flags)
    from kcv.tasks import compare as comparison

    found = comparison.compare(
        values["run"],
        values["data"],
        values["split"],
        values["output"],
        batch_size=values["batch_size"],
        device=values["device"],
        progress=True,
    )
    if values["format"] == "json":
        terminal.json_of(found.to_dict())
    else:
        terminal.show(comparisons.comparison(found))
    return 0


def report(*operands: str, **flags: str) -> int:
    """Writes what a run came to, as a page and as a model card."""
    values, _ = check(VERBS["report"], operands, flags)
    from kcv.tasks import report as reporting

    made = reporting.report(values["run"], values["output_dir"])
    if values["format"] == "json":
        terminal.json_of({"page": str(made.page), "card": str(made.card)})
    else:
        terminal.show(results.report(made))
    return 0


def info(*operands: str, **flags: str) -> int:
    """Shows what is in a model file."""
    values, _ = check(VERBS["info"], operands, flags)
    from kcv.inference.classifier import is_onnx

    path = model_file(values["model"])
    if is_onnx(path):
        from kcv.inference.onnx_model import OnnxModel

        told = OnnxModel(path, device="cpu").info
        content, card = asdict(told), results.onnx_card(told, path)
    else:
        from kcv.artifact import read_info

        described = read_info(path)
        content, card = described.model_dump(mode="json"), results.model_card(described, path)
    if values["format"] == "json":
        terminal.json_of({"path": str(path), "bytes": path.stat().st_size, **content})
    else:
        terminal.show(card)
    return 0


def models(*operands: str, **flags: str) -> int:
    """Lists the models that can be trained."""
    values, _ = check(VERBS["models"], operands, flags)
    from kcv.models import registry

    if values["format"] == "json":
        terminal.json_of([network.row() for network in registry.networks()])
    else:
        terminal.show(results.model_list(registry.networks()))
    return 0


COMMANDS: dict[str, Callable[..., int]] = {
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "explain": explain,
    "export": export,
    "check": check_data,
    "compare": compare,
    "report": report,
    "info": info,
    "models": models,
    "benchmark": benchmark,
}
