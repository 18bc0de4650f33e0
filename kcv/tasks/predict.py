"""Classifying images: rows in the order of the input, in bounded memory, whatever single images hold.

paths -> model -> batches, decoded ahead -> rows -> (a file)
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from kcv.common.files import expand_user
from kcv.common.launch import Launch
from kcv.common.parameters import AtLeast, Between, Device, ListedOnStdin, PythonOnly, checked
from kcv.common.progress import Progress
from kcv.common.rows import RowWriter, check_suffix, open_rows
from kcv.errors import DataError, UsageError
from kcv.inference.locating import model_file
from kcv.stores.location import is_object_url, require_text

if TYPE_CHECKING:
    from kcv.images.urls import Image
    from kcv.inference.classifier import Classifier

_RANKED_FOR_ONE = 5
"""Classes ranked for a single image where the caller names no number."""


@checked
def predict(
    paths: Annotated[str | Path | Iterable[str | Path], ListedOnStdin()],
    model: str | Path | Classifier,
    *,
    top_k: Annotated[int, AtLeast(1)] | None = None,
    threshold: Annotated[float, Between(0, 1)] | None = None,
    tta: str | None = None,
    output: str | Path | None = None,
    batch_size: Annotated[int, AtLeast(1)] | None = None,
    device: Device = "auto",
    recursive: bool = False,
    progress: Annotated[bool, PythonOnly()] = False,
    resume: bool = False,
) -> Iterator[dict[str, Any]]:
    """Classify images.

    Rows come in the order of the input, while later images are still being read. Options are checked, and the model is
    opened, when this is called; the images are read as the rows are taken. An image that cannot be read gives a row
    with its error.

    Args:
        paths: images, folders or quoted patterns ('photos/*.jpg'); - reads a list of images from standard input. URLs
            are fetched when it is their turn; s3://BUCKET/PREFIX/ is read like a folder. From Python also an iterator,
            whose paths are taken as they come and all stand for images.
        model: a model file (model.keras, model.onnx), or a run folder. Also an OpenVINO model.xml, a model in MLflow:
            models:/NAME/VERSION, models:/NAME@ALIAS or runs:/RUN_ID/PATH; or in the Hugging Face Hub:
            hf://OWNER/NAME[@COMMIT]. From Python also an opened model.
        top_k: number of classes to rank; default: 1, for a single image 5. At most the number of classes.
        threshold: report `unsure` below this confidence; default: the model's own, if it has one. With 0 there is
            always a class.
        tta: test-time augmentation, the mean over views of each image: flip, five_crop, or a number of them up to 64.
            Calibrate the model for it first, with `evaluate --calibrate --tta`.
        output: write the rows to this file: .csv, .jsonl or .parquet; or to the object s3://BUCKET/NAME.parquet. It
            appears when the last row has been taken.
        batch_size: images per batch; default: chosen by their size.
        device: where to compute. An opened model stays where it is.
        recursive: search folders recursively.
        progress: show a progress bar on a terminal.
        resume: keep finished parts beside the output (of an object, in the cache folder), and continue from those
            that are there. Several processes (torchrun) always work in parts; the rows of all come from the first.

    Returns:
        Rows: `path`, `label`, `confidence` (0-1), `error` ("" where fine), then `label_2`, `confidence_2` and so on,
        and `probabilities`, a probability by class name. Where `error` is not empty, the others but `path` are None.
        With a threshold also `likeliest`, the class that the confidence is of, where `label` is `unsure` as well;
        from a model with prediction sets `prediction_set`, the names of its classes.

    Raises:
        DataError: a path does not exist or stands for no image.
        UsageError: the output's suffix is of no known format; several processes, or `resume`, without an output or
            with a list of paths that can be read only once; there is no such `tta`, or the file has one already.
        OutputError: there are parts of an earlier prediction and `resume` is not set, or they are of another; or the
            object of the output may not be written.
        ArtifactError: the model cannot be opened.

    Example:
        $ kcv predict cat.jpg --model=runs/mine/model.onnx
        $ kcv predict photos --recursive --model=runs/mine/model.onnx --output=predictions.csv
        >>> [row["label"] for row in kcv.predict("photos", "runs/mine/model.onnx")]
    """
    launch = Launch.current()
    target, sent = _target(output, launch)
    from kcv.inference.tta import Tta

    augmentation = Tta.parse(tta) if tta is not None else None
    in_parts = launch.is_distributed or resume
    if in_parts:
        _require_parts(paths, target, launch)
    from kcv.images.urls import found
    from kcv.inference.classifier import open_classifier
    from kcv.inference.prediction import Job, written
    from kcv.inference.shards import PredictionShards

    named = [] if isinstance(paths, Iterator) else [paths] if isinstance(paths, str | Path) else list(paths)
    files: Iterator[Image] = map(Path, paths) if isinstance(paths, Iterator) else found(named, recursive=recursive)
    first_two = list(islice(files, 2))
    if not first_two:
        raise DataError("no images were named.")
    single = len(first_two) == 1
    origin = type(model).__name__
    if isinstance(model, str | Path):
        model = model_file(model)
        origin = str(model)
        # One image has all cores for itself; of many, each core takes a batch of its own.
        model = open_classifier(model, device=device, threads=None if single else 1)
    if augmentation is not None:
        model = model.with_tta(augmentation)
    ranked = top_k if top_k is not None else _RANKED_FOR_ONE if single else 1
    bar = None
    if progress:
        # Names are cheaper to read twice than to hold. A list that arrives by and by has no length.
        counted = found(named, recursive=recursive) if sys.stderr.isatty() else ()
        bar = Progress(sum(1 for _ in counted), "predict")
    least = threshold if threshold is not None else model.threshold
    job = Job(model, min(ranked, len(model.class_names)), batch_size or model.preferred_batch, least or None)
    if in_parts and target is not None:
        parts = PredictionShards(job, target, lambda: found(named, recursive=recursive), launch, origin, sent)
        return parts.rows(resume=resume or launch.restarts > 0, bar=bar)
    file = _rows_of(target, job.columns, sent) if target is not None else None
    return written(job, chain(first_two, files), file, bar)


def _target(output: str | Path | None, launch: Launch) -> tuple[Path | None, Callable[[], None]]:
    """Returns the file that rows are written to, and what is to be done when it is complete."""
    if output is None:
        return None, lambda: None
    require_text(output)
    if not is_object_url(output):
        target = expand_user(output)
        check_suffix(target)
        return target, lambda: None
    from kcv.inference.stored_output import StoredOutput

    stored = StoredOutput.open(str(output), launch=launch)
    return stored.path, stored.send


@contextmanager
def _rows_of(path: Path, columns: Sequence[str], sent: Callable[[], None]) -> Iterator[RowWriter]:
    with open_rows(path, columns) as writer:
        yield writer
    sent()


def _require_parts(paths: object, output: Path | None, launch: Launch) -> None:
    """Raises UsageError where the work cannot be done in parts: they lie beside the output, and are read twice."""
    if output is None or isinstance(paths, Iterator):
        who = "several processes need" if launch.is_distributed else "--resume needs"
        needed = "--output=FILE" if output is None else "names of files or folders, not a list on standard input"
        raise UsageError(f"predict: {who} {needed}.")
