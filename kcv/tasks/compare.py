"""Comparing runs on the same images: figures side by side, curves, and whether the models really differ.

runs -> models of the same classes -> logits of the same images -> figures, latency in turns, paired tests -> (files)
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from kcv.common.files import expand_user, write_csv, write_json
from kcv.common.parameters import AtLeast, Described, Device, PythonOnly, Split, checked, renamed
from kcv.common.progress import Progress
from kcv.common.redaction import data_without_credentials
from kcv.errors import ArtifactError, DataError, UsageError
from kcv.inference.locating import model_file
from kcv.tasks import described_sources

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kcv.data.dataset import Images
    from kcv.inference.keras_model import LoadedModel
    from kcv.inference.outputs import Forward
    from kcv.metrics.significance import Pair

__all__ = ["Comparison", "compare"]

COLUMNS = (
    "name", "model", "accuracy", "accuracy_low", "accuracy_high", "macro_f1", "parameters", "bytes", "latency_ms",
    "minutes", "trained_parameters", "ece", "images_per_second", "command",
)  # fmt: skip
_TURNS = 15


@dataclass(frozen=True)
class Comparison:
    """How runs compare.

    Attributes:
        images: what they were measured on, in words.
        rows: a row per run, see `COLUMNS`: accuracies and expected calibration error 0-1, latency of one image in
            milliseconds (median, in turns, on this machine), minutes of training and images per second of the median
            epoch (None if the run has no history), and the command that trained it (None if it is not known).
        pairs: each run with each other one.
        warnings: why the comparison may not be fair.
        directory: where the files lie; None where none were asked for.
    """

    images: str
    rows: list[dict[str, Any]]
    pairs: list[Pair]
    warnings: list[str] = field(default_factory=list)
    directory: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns all of it as plain values."""
        return {
            "pictures": self.images,
            "runs": self.rows,
            "pairs": [pair.to_dict() for pair in self.pairs],
            "warnings": self.warnings,
        }


@renamed(source="data")
@checked
def compare(
    runs: Sequence[str | Path],
    data: Annotated[str, Described(described_sources)] | None = None,
    split: Split = "test",
    output: str | Path | None = None,
    *,
    batch_size: Annotated[int, AtLeast(1)] | None = None,
    device: Device = "auto",
    progress: Annotated[bool, PythonOnly()] = False,
) -> Comparison:
    """Compare runs on the same images, and test whether they really differ.

    Args:
        runs: two or more run folders or model files. Also models in MLflow: models:/NAME/VERSION, models:/NAME@ALIAS
            or runs:/RUN_ID/PATH; or in the Hugging Face Hub: hf://OWNER/NAME[@COMMIT].
        data: source of the images; default: what the first model was trained on. If you
            began its run on this machine, they may have changed since, with a warning; otherwise they must be named.
        split: the split to measure, as the first model's training made it. Classes are matched by name.
        output: a folder for the table and the learning curves; default: no files. It will hold `comparison.json`,
            `comparison.csv` and the curves.
        batch_size: images per batch; default: chosen by their size.
        device: where to compute.
        progress: show progress bars on a terminal.

    Raises:
        UsageError: fewer than two runs.
        ArtifactError: a model cannot be opened.
        DataError: the images cannot be read, or the models know other classes.
        OutputError: the folder cannot be written to.

    Example:
        $ kcv compare runs/first runs/second
        $ kcv compare runs/* --output=comparison
        $ kcv compare runs/* --format=markdown
        >>> kcv.compare(["runs/first", "runs/second"]).rows
    """
    if len(runs) < 2:
        raise UsageError("compare needs two or more runs.")
    files = [model_file(run) for run in runs]
    _require_keras(files)
    from kcv.inference import opening
    from kcv.metrics.significance import pairs

    names = _names(files)
    models = {name: opening.load(path, device=device) for name, path in zip(names, files, strict=True)}
    right, rows, count = measured(models, data, split, batch_size=batch_size, progress=progress)
    for row, latency in zip(rows, _latencies(models), strict=True):
        row["latency_ms"] = latency
    told = data_without_credentials(data or models[names[0]].info.data_name)
    words = f"{count:,} {split} images of {told}"
    folder = expand_user(output) if output is not None else None
    comparison = Comparison(words, rows, pairs(right), _warnings(models), folder)
    if folder is not None:
        _write(comparison, folder, files)
    return comparison


def measured(
    models: dict[str, LoadedModel],
    data: str | None,
    split: str,
    *,
    batch_size: int | None = None,
    progress: bool = False,
) -> tuple[dict[str, NDArray[np.bool_]], list[dict[str, Any]], int]:
    """Measures models of the same classes on the same images.

    Args:
        models: the models by name.
        data: see `compare`.
        split: see `compare`.
        batch_size: see `compare`.
        progress: see `compare`.

    Returns:
        By model, whether each image was classified correctly, bool [n]; a row per model, see `COLUMNS`; and n.

    Raises:
        DataError: the images cannot be read, or the models know other classes.
    """
    first, *_ = models.values()
    _same_classes(models)
    right, rows, members = {}, [], None
    for name, model in models.items():
        images = _images(first, model, split, data, warn=model is first)
        if members is not None and list(images.names) != members:
            raise DataError(f"{name}: would be measured on other images than {next(iter(models))}.")
        members = list(images.names)
        with Progress(len(images) if progress else None, f"compare {name}") as bar:
            logits = model.logits(images, batch_size=batch_size, advance=bar.advance)
        right[name] = logits.argmax(axis=1) == images.labels
        rows.append(_row(name, model, images, logits))
    return right, rows, len(members or ())


def _require_keras(files: Sequence[Path]) -> None:
    from kcv.inference.classifier import is_onnx

    for path in files:
        if is_onnx(path):
            raise ArtifactError(f"{path}: is an ONNX file; compare needs the .keras file it was exported from.")


def _names(files: Sequence[Path]) -> list[str]:
    """Calls each run by its folder, or as much of its path as tells it from the others."""
    paths = [Path(os.path.realpath(path)) for path in files]
    parts = [[*path.parent.parts, *([] if path.name == "model.keras" else [path.stem])] for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    # The same file more than once.
    return [f"{'/'.join(part[-1:])} ({number})" for number, part in enumerate(parts, start=1)]


def _same_classes(models: dict[str, LoadedModel]) -> None:
    (first, reference), *others = models.items()
    for name, model in others:
        different = set(model.class_names) ^ set(reference.class_names)
        if different:
            some = ", ".join(sorted(different)[:5])
            raise DataError(f"{name} and {first} do not know the same classes; only one of them knows: {some}.")


def _images(first: LoadedModel, model: LoadedModel, split: str, source: str | None, *, warn: bool) -> Images:
    """Returns the images of the first model's split, as the other model wants them."""
    from kcv.data import loading
    from kcv.inference import splits
    from kcv.inference.choice import chose_data

    config = splits.data_config(first, source)
    return loading.load_split(
        config.model_copy(update={"image_size": model.image_size, "resize": model.resize}),
        split,
        model.class_names,
        trained_on=first.info.data_fingerprint,
        same_source=splits.is_own_data(first, source),
        began_in=splits.working_folder(first.path.parent) if source is None else None,
        changed=source is None and chose_data(first),
        warn=warn,
    )


def _row(name: str, model: LoadedModel, images: Images, logits: NDArray[np.float32]) -> dict[str, Any]:
    from kcv import metrics
    from kcv.reporting.material import known_environment, known_history

    probabilities = model.calibration.probabilities(logits)
    figures = metrics.summarize(images.labels, probabilities, model.class_names, "test")
    low, high = figures["accuracy_ci95"]
    history, environment = known_history(model.path.parent), known_environment(model.path.parent)
    seconds = [row["seconds"] for row in history if "seconds" in row]
    speeds = [row["images_per_second"] for row in history if "images_per_second" in row]
    return {
        "name": name,
        "model": model.info.model_name,
        "accuracy": figures["accuracy"],
        "accuracy_low": low,
        "accuracy_high": high,
        "macro_f1": figures["macro_f1"],
        "parameters": model.info.parameters["total"],
        "bytes": model.path.stat().st_size,
        "latency_ms": None,
        "minutes": sum(seconds) / 60 if seconds else None,
        "trained_parameters": model.info.parameters["trainable"],
        "ece": figures["ece"],
        "images_per_second": statistics.median(speeds) if speeds else None,
        "command": environment.command if environment else None,
    }


def _latencies(models: dict[str, LoadedModel]) -> list[float]:
    """Returns milliseconds of one image by model, medians of turns."""
    import torch

    from kcv.common.timing import interleave
    from kcv.inference import outputs

    works = {}
    for name, model in models.items():
        where = outputs.model_device(model.keras_model)
        image = torch.zeros((1, model.image_size, model.image_size, 3), dtype=torch.uint8, device=where)
        works[name] = partial(_answer, model.forward, image)
    return [1e3 * statistics.median(seconds) for seconds in interleave(works, _TURNS).values()]


def _answer(forward: Forward, image: Any) -> object:
    import torch

    with torch.inference_mode():
        return forward(image).cpu()


def _warnings(models: dict[str, LoadedModel]) -> list[str]:
    (first, reference), *others = models.items()
    found = []
    for name, model in others:
        theirs, ours = model.info.data_options, reference.info.data_options
        keys = [
            key
            for key in ("split_seed", "val_fraction", "test_fraction", "fold", "fold_split")
            if theirs.get(key) != ours.get(key)
        ]
        why = "on other data" if model.info.data_fingerprint != reference.info.data_fingerprint else ""
        if not why and keys:
            why = f"with another {' and '.join(f'data.{key}' for key in keys)}"
        if why:
            found.append(f"{name} was trained {why} than {first}, and may have seen some of these images.")
    return found


def _write(comparison: Comparison, folder: Path, files: Sequence[Path]) -> None:
    from kcv.reporting import plots
    from kcv.reporting.material import known_history

    write_json(folder / "comparison.json", comparison.to_dict())
    write_csv(folder / "comparison.csv", COLUMNS, [[row[key] for key in COLUMNS] for row in comparison.rows])
    names = [row["name"] for row in comparison.rows]
    histories = {name: known_history(path.parent) for name, path in zip(names, files, strict=True)}
    if known := {name: rows for name, rows in histories.items() if rows}:
        plots.compared_curves(known, folder / "curves.png")
