"""Saying what is on images: rows in the order of the input, in bounded memory, whatever single images hold."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path
from typing import Any

from kcv.common.launch import Launch
from kcv.common.progress import Progress
from kcv.common.rows import check_suffix, open_rows
from kcv.errors import DataError, UsageError
from kcv.images.urls import Image, found
from kcv.inference.classifier import Classifier, open_classifier
from kcv.inference.prediction import Job, classified
from kcv.inference.shards import Parts

_RANKED_FOR_ONE = 5
"""Classes ranked for a single image where the caller names no number."""


def predict(
    paths: str | Path | Iterable[str | Path],
    model: str | Path | Classifier,
    *,
    top_k: int | None = None,
    threshold: float | None = None,
    output: str | Path | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    recursive: bool = False,
    progress: bool = False,
    resume: bool = False,
) -> Iterator[dict[str, Any]]:
    """Classifies images; rows come in the order of the input while later images are still being read.

    Options are checked, and the model is opened, when this is called; the images are read as the rows are taken. An
    image that cannot be read gives a row that says so.

    Args:
        paths: images, folders, glob patterns and URLs, checked at once (a URL is fetched when it is its turn); or an
            iterator, whose paths are taken as they come and all stand for images.
        model: a model file (`.keras` or `.onnx`), or an opened one.
        top_k: how many classes a row ranks; by default 1, for a single image 5. At most the number of classes.
        threshold: the confidence (0-1) below which a row's label is `unsure`; by default the model's own, if it has
            one; 0 for always a class.
        output: a file for the rows as well: .csv, .jsonl or .parquet. It appears when the last row has been taken.
        batch_size: images a batch; by default chosen by their size.
        device: where to run, if `model` is a file.
        recursive: whether a folder stands for all below it, not only for its own images.
        progress: whether to show a progress bar on a terminal.
        resume: keep the finished parts of the work beside `output` until it is whole, and go on from those that are
            there. Several processes (torchrun) always work in parts; the rows of all come from the first.

    Returns:
        Rows: `path`, `label`, `confidence` (0-1), `error` ("" where fine), then `label_2`, `confidence_2` and so on,
        and `probabilities`, a probability by class name. Where `error` is not empty, the others but `path` are None.
        With a threshold also `likeliest`, the class that the confidence is of, where `label` is `unsure` as well.

    Raises:
        DataError: a path does not exist or stands for no image.
        UsageError: the output's suffix is of no known format; several processes, or `resume`, without an output or
            with a list of paths that can be read only once.
        OutputError: there are parts of an earlier prediction and `resume` is not set, or they are of another.
        ArtifactError: the model cannot be opened.
    """
    if output is not None:
        output = Path(output)
        check_suffix(output)
    launch = Launch.current()
    in_parts = launch.several or resume
    if in_parts and (output is None or isinstance(paths, Iterator)):
        who = "several processes" if launch.several else "--resume"
        needed = "--output=FILE" if output is None else "names of files or folders, not a list on standard input"
        raise UsageError(f"predict: {who} need{'' if launch.several else 's'} {needed}.")
    named = [] if isinstance(paths, Iterator) else [paths] if isinstance(paths, str | Path) else list(paths)
    files: Iterator[Image] = map(Path, paths) if isinstance(paths, Iterator) else found(named, recursive=recursive)
    first_two = list(islice(files, 2))
    if not first_two:
        raise DataError("no images were named.")
    single = len(first_two) == 1
    path_of_model = model if isinstance(model, str | Path) else type(model).__name__
    if isinstance(model, str | Path):
        # One image has all cores for itself; of many, each core takes a batch of its own.
        model = open_classifier(model, device=device, threads=None if single else 1)
    ranked = top_k if top_k is not None else _RANKED_FOR_ONE if single else 1
    bar = None
    if progress:
        # Names are cheaper to read twice than to hold. A list that arrives by and by has no length.
        counted = found(named, recursive=recursive) if sys.stderr.isatty() else ()
        total = sum(1 for _ in counted)
        bar = Progress(total, "predict")
    least = threshold if threshold is not None else model.threshold
    job = Job(model, min(ranked, len(model.class_names)), batch_size or model.preferred_batch, least or None)
    if in_parts and output is not None:
        origin = str(path_of_model)
        parts = Parts(job, output, lambda: found(named, recursive=recursive), launch, origin)
        return parts.rows(resume=resume or launch.restarts > 0, bar=bar)
    return _rows(job, chain(first_two, files), output, bar)


def _rows(job: Job, files: Iterator[Image], output: Path | None, bar: Progress | None) -> Iterator[dict[str, Any]]:
    with ExitStack() as stack:
        writer = stack.enter_context(open_rows(output, job.columns)) if output is not None else None
        if bar is not None:
            stack.enter_context(bar)
        batches = classified(job, files)
        stack.callback(batches.close)
        for rows in batches:
            for row in rows:
                if writer is not None:
                    writer.write(row)
                yield row
            if bar is not None:
                bar.advance(len(rows))
