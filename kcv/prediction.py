"""Saying what is on pictures: rows in the order of the input, in bounded memory, whatever single pictures hold."""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kcv import images
from kcv.classifier import Classifier, open_classifier, usable_cores
from kcv.errors import DataError, ImageError
from kcv.progress import Progress
from kcv.rows import UNSURE, check_suffix, open_rows

Decoded: TypeAlias = NDArray[np.uint8] | ImageError

_RANKED_FOR_ONE = 5
"""Classes ranked for a single picture where the caller names no number."""


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
) -> Iterator[dict[str, Any]]:
    """Classifies pictures; rows come in the order of the input while later pictures are still being read.

    Options are checked, and the model is opened, when this is called; the pictures are read as the rows are taken. A
    picture that cannot be read gives a row that says so.

    Args:
        paths: pictures, folders and glob patterns, checked at once; or an iterator, whose paths are taken as they come
            and all stand for pictures.
        model: a model file (`.keras` or `.onnx`), or an opened one.
        top_k: how many classes a row ranks; by default 1, for a single picture 5. At most the number of classes.
        threshold: the confidence (0-1) below which a row's label is `unsure`; by default the model's own, if it has
            one; 0 for always a class.
        output: a file for the rows as well: .csv, .jsonl or .parquet. It appears when the last row has been taken.
        batch_size: pictures a batch; by default chosen by their size.
        device: where to run, if `model` is a file.
        recursive: whether a folder stands for all below it, not only for its own pictures.
        progress: whether to show a progress bar on a terminal.

    Returns:
        Rows: `path`, `label`, `confidence` (0-1), `error` ("" where fine), then `label_2`, `confidence_2` and so on,
        and `probabilities`, a probability by class name. Where `error` is not empty, the others but `path` are None.
        With a threshold also `likeliest`, the class that the confidence is of, where `label` is `unsure` as well.

    Raises:
        DataError: a path does not exist or stands for no picture.
        UsageError: the output's suffix is of no known format.
        ArtifactError: the model cannot be opened.
    """
    if output is not None:
        output = Path(output)
        check_suffix(output)
    named = [] if isinstance(paths, Iterator) else [paths] if isinstance(paths, str | Path) else list(paths)
    files = map(Path, paths) if isinstance(paths, Iterator) else images.find(named, recursive=recursive)
    first_two = list(islice(files, 2))
    if not first_two:
        raise DataError("no pictures were named.")
    single = len(first_two) == 1
    if isinstance(model, str | Path):
        # One picture has all cores for itself; of many, each core takes a batch of its own.
        model = open_classifier(model, device=device, threads=None if single else 1)
    ranked = top_k if top_k is not None else _RANKED_FOR_ONE if single else 1
    bar = None
    if progress:
        # Names are cheaper to read twice than to hold. A list that arrives by and by has no length.
        counted = images.find(named, recursive=recursive) if sys.stderr.isatty() else ()
        total = sum(1 for _ in counted)
        bar = Progress(total, "predict")
    least = threshold if threshold is not None else model.threshold
    job = _Job(model, min(ranked, len(model.class_names)), batch_size or model.preferred_batch, least or None)
    return _rows(job, chain(first_two, files), output, bar)


@dataclass(frozen=True)
class _Job:
    """What is done to each batch of files."""

    model: Classifier
    top_k: int
    batch_size: int
    threshold: float | None

    @property
    def columns(self) -> list[str]:
        more = ["likeliest"] if self.threshold is not None else []
        more += [f"{name}_{rank}" for rank in range(2, self.top_k + 1) for name in ("label", "confidence")]
        return ["path", "label", "confidence", "error", *more]

    def decode(self, files: Sequence[Path]) -> list[Decoded]:
        """Returns each picture, uint8 [size, size, 3], or why it cannot be read."""
        decoded: list[Decoded] = []
        for path in files:
            try:
                decoded.append(images.load(path, self.model.image_size, self.model.resize))
            except ImageError as error:
                decoded.append(error)
        return decoded

    def classify(self, files: Sequence[Path], decoded: Sequence[Decoded]) -> list[dict[str, Any]]:
        """Returns the rows of decoded pictures."""
        pixels = [picture for picture in decoded if not isinstance(picture, ImageError)]
        scores = iter(self.model.predict(pixels, batch_size=len(pixels)) if pixels else ())
        return [
            self._failed(path, picture) if isinstance(picture, ImageError) else self._row(path, next(scores))
            for path, picture in zip(files, decoded, strict=True)
        ]

    def _failed(self, path: Path, error: ImageError) -> dict[str, Any]:
        row: dict[str, Any] = {**dict.fromkeys(self.columns), "path": str(path)}
        return {**row, "error": str(error), "probabilities": None}

    def _row(self, path: Path, scores: NDArray[np.float32]) -> dict[str, Any]:
        names = self.model.class_names
        row: dict[str, Any] = {**dict.fromkeys(self.columns), "path": str(path), "error": ""}
        # A stable sort of the negated scores: of equal classes the first comes first, as argmax has it.
        for rank, position in enumerate(np.argsort(-scores, kind="stable")[: self.top_k], start=1):
            suffix = "" if rank == 1 else f"_{rank}"
            row[f"label{suffix}"] = names[position]
            row[f"confidence{suffix}"] = float(scores[position])
        if self.threshold is not None:
            row["likeliest"] = row["label"]
            if not row["confidence"] >= self.threshold:
                row["label"] = UNSURE
        row["probabilities"] = dict(zip(names, map(float, scores), strict=True))
        return row


def _rows(job: _Job, files: Iterator[Path], output: Path | None, bar: Progress | None) -> Iterator[dict[str, Any]]:
    with ExitStack() as stack:
        writer = stack.enter_context(open_rows(output, job.columns)) if output is not None else None
        if bar is not None:
            stack.enter_context(bar)
        batches = _classified(job, files)
        stack.callback(batches.close)
        for rows in batches:
            for row in rows:
                if writer is not None:
                    writer.write(row)
                yield row
            if bar is not None:
                bar.advance(len(rows))


def _classified(job: _Job, files: Iterator[Path]) -> Generator[list[dict[str, Any]]]:
    """Yields the rows of each batch, in order.

    Threads decode batches ahead. A model that may be called from several threads classifies in them as well, so that
    each core works on a batch of its own and none waits for another; any other gets one batch after the other.
    """
    cores = usable_cores()
    size = job.batch_size
    head = list(islice(files, size * cores))
    if job.model.concurrent and len(head) < size * cores:
        size = max(1, math.ceil(len(head) / cores))
    files = chain(head, files)

    def work(batch: list[Path]) -> tuple[list[Path], list[Decoded], list[dict[str, Any]] | None]:
        decoded = job.decode(batch)
        return batch, decoded, job.classify(batch, decoded) if job.model.concurrent else None

    with ThreadPoolExecutor(cores) as pool:
        waiting: deque[Future[Any]] = deque()
        try:
            while True:
                while len(waiting) <= cores and (batch := list(islice(files, size))):
                    waiting.append(pool.submit(work, batch))
                if not waiting:
                    return
                batch, decoded, rows = waiting.popleft().result()
                yield job.classify(batch, decoded) if rows is None else rows
        finally:
            for future in waiting:
                future.cancel()
