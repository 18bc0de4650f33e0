"""Decodes and classifies the images of one prediction, batch by batch."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kcv import images
from kcv.common.cores import usable_cores
from kcv.common.progress import Progress
from kcv.common.rows import PREDICTION_SET, UNSURE, RowWriter
from kcv.errors import ImageError
from kcv.images.urls import Image, StoredImage, Url
from kcv.inference.classifier import Classifier
from kcv.stores.ahead import FetchedAhead

Decoded: TypeAlias = NDArray[np.uint8] | ImageError


def ranked(scores: NDArray[np.floating[Any]], most: int) -> NDArray[np.intp]:
    """Returns the positions of the likeliest classes, most likely first.

    Args:
        scores: probabilities [classes].
        most: the number of positions, at most.
    """
    # A stable sort of the negated scores puts the first of tied classes first, like argmax.
    return np.argsort(-scores, kind="stable")[:most]


def answer(likeliest: str, confidence: float, threshold: float | None) -> str:
    """Returns the label of an image: its likeliest class, or `UNSURE` where the confidence is below the threshold."""
    return likeliest if threshold is None or confidence >= threshold else UNSURE


@dataclass(frozen=True)
class Job:
    """The settings of a prediction and the work on each batch of files.

    Attributes:
        model: the classifier.
        top_k: the number of classes that a row ranks.
        batch_size: images per batch.
        threshold: the confidence (0-1) below which a row is unsure; None to always name a class.
    """

    model: Classifier
    top_k: int
    batch_size: int
    threshold: float | None

    @property
    def columns(self) -> list[str]:
        """The column names of a row, in order."""
        more = ["likeliest"] if self.threshold is not None else []
        more += [PREDICTION_SET] if self.model.sets is not None else []
        more += [f"{name}_{rank}" for rank in range(2, self.top_k + 1) for name in ("label", "confidence")]
        return ["path", "label", "confidence", "error", *more]

    def decode(self, files: Sequence[Image]) -> list[Decoded]:
        """Returns each image, uint8 [size, size, 3], or the error if it cannot be read."""
        decoded: list[Decoded] = []
        stored = [path for path in files if isinstance(path, StoredImage)]
        fetched = FetchedAhead(lambda i: stored[i].read(), [path.found.size for path in stored])
        numbers = itertools.count()
        for path in files:
            try:
                if isinstance(path, StoredImage):
                    content: bytes | Path = fetched[next(numbers)]
                else:
                    content = path.read() if isinstance(path, Url) else path
                decoded.append(images.load(content, self.model.image_size, self.model.resize, name=str(path)))
            except ImageError as error:
                decoded.append(error)
        return decoded

    def classify(self, files: Sequence[Image], decoded: Sequence[Decoded]) -> list[dict[str, Any]]:
        """Returns the rows of decoded images."""
        pixels = [image for image in decoded if not isinstance(image, ImageError)]
        scores = iter(self.model.predict_pixels(np.stack(pixels)) if pixels else ())
        return [
            self._failed(path, image) if isinstance(image, ImageError) else self._row(path, next(scores))
            for path, image in zip(files, decoded, strict=True)
        ]

    def _failed(self, path: Image, error: ImageError) -> dict[str, Any]:
        row: dict[str, Any] = {**dict.fromkeys(self.columns), "path": str(path)}
        return {**row, "error": str(error), "probabilities": None}

    def _row(self, path: Image, scores: NDArray[np.float32]) -> dict[str, Any]:
        names = self.model.class_names
        row: dict[str, Any] = {**dict.fromkeys(self.columns), "path": str(path), "error": ""}
        for rank, position in enumerate(ranked(scores, self.top_k), start=1):
            suffix = "" if rank == 1 else f"_{rank}"
            row[f"label{suffix}"] = names[position]
            row[f"confidence{suffix}"] = float(scores[position])
        if self.threshold is not None:
            row["likeliest"] = row["label"]
            row["label"] = answer(row["label"], row["confidence"], self.threshold)
        if self.model.sets is not None:
            row[PREDICTION_SET] = self.model.sets.names(scores, names)
        row["probabilities"] = dict(zip(names, map(float, scores), strict=True))
        return row


def written(
    job: Job,
    files: Iterator[Image],
    output: AbstractContextManager[RowWriter] | None,
    bar: Progress | None,
    seen: Callable[[dict[str, Any]], object] = lambda row: None,
) -> Iterator[dict[str, Any]]:
    """Yields the rows of all files in order, after writing each.

    Args:
        job: makes the rows.
        files: the images.
        output: gives what rows are written to, held open until the last one; None to write nothing.
        bar: a progress bar to open and advance; None for none.
        seen: called with each row.
    """
    with ExitStack() as stack:
        writer = stack.enter_context(output) if output is not None else None
        if bar is not None:
            stack.enter_context(bar)
        batches = classified(job, files)
        stack.callback(batches.close)
        for rows in batches:
            for row in rows:
                if writer is not None:
                    writer.write(row)
                seen(row)
                yield row
            if bar is not None:
                bar.advance(len(rows))


def classified(job: Job, files: Iterator[Image]) -> Generator[list[dict[str, Any]]]:
    """Yields the rows of each batch, in order.

    Threads decode batches ahead. A model that supports calls from several threads also classifies in them, so that
    each core works on its own batch without waiting; any other model gets one batch at a time.
    """
    cores = usable_cores()
    size = job.batch_size
    head = list(islice(files, size * cores))
    if job.model.concurrent and len(head) < size * cores:
        size = max(1, math.ceil(len(head) / cores))
    files = chain(head, files)

    def work(batch: list[Image]) -> tuple[list[Image], list[Decoded], list[dict[str, Any]] | None]:
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
