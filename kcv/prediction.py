"""Saying what is on pictures: rows in the order of the input, in bounded memory, whatever single pictures hold."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kcv import artifact, images, inference
from kcv.artifact import LoadedModel
from kcv.errors import ImageError
from kcv.progress import Progress
from kcv.rows import check_suffix, open_rows

Decoded: TypeAlias = NDArray[np.uint8] | ImageError

_RANKED_FOR_ONE = 5
"""Classes ranked for a single picture where the caller names no number."""


def predict(
    paths: str | Path | Sequence[str | Path],
    model: str | Path | LoadedModel,
    *,
    top_k: int | None = None,
    output: str | Path | None = None,
    batch_size: int = inference.BATCH_SIZE,
    device: str = "auto",
    progress: bool = False,
) -> Iterator[dict[str, Any]]:
    """Classifies pictures; rows come in the order of the input while later pictures are still being read.

    Paths and options are checked, and the model is opened, when this is called; the pictures are read as the rows are
    taken. A picture that cannot be read gives a row that says so.

    Args:
        paths: pictures, folders (with all below them) and glob patterns.
        model: a model file, or a loaded model.
        top_k: how many classes a row ranks; by default 1, for a single picture 5. At most the number of classes.
        output: a file for the rows as well: .csv, .jsonl or .parquet. It appears when the last row has been taken.
        batch_size: pictures a batch.
        device: where to run, if `model` is a file.
        progress: whether to show a progress bar on a terminal.

    Returns:
        Rows: `path`, `label`, `confidence` (0-1), `error` ("" where fine), then `label_2`, `confidence_2` and so on,
        and `probabilities`, a probability by class name. Where `error` is not empty, the others but `path` are None.

    Raises:
        DataError: a path does not exist or stands for no picture.
        UsageError: the output's suffix is of no known format.
        ArtifactError: the model cannot be opened.
    """
    if output is not None:
        output = Path(output)
        check_suffix(output)
    files = images.find([paths] if isinstance(paths, str | Path) else paths)
    loaded = model if isinstance(model, LoadedModel) else artifact.load(model, device=device)
    ranked = top_k if top_k is not None else _RANKED_FOR_ONE if len(files) == 1 else 1
    return _rows(files, loaded, min(ranked, len(loaded.class_names)), output, batch_size, progress)


def _rows(
    files: Sequence[Path], model: LoadedModel, top_k: int, output: Path | None, batch_size: int, progress: bool
) -> Iterator[dict[str, Any]]:
    columns = ["path", "label", "confidence", "error"]
    columns += [f"{name}_{rank}" for rank in range(2, top_k + 1) for name in ("label", "confidence")]
    with ExitStack() as stack:
        writer = stack.enter_context(open_rows(output, columns)) if output is not None else None
        bar = stack.enter_context(Progress(len(files) if progress else None, "predict"))
        decoded = _decode_ahead(files, model, 2 * batch_size)
        for start in range(0, len(files), batch_size):
            batch = files[start : start + batch_size]
            for row in _classify(batch, list(islice(decoded, len(batch))), model, top_k, columns):
                if writer is not None:
                    writer.write(row)
                yield row
            if progress:
                bar.advance(len(batch))


def _decode_ahead(files: Sequence[Path], model: LoadedModel, ahead: int) -> Iterator[Decoded]:
    """Yields each picture, uint8 [size, size, 3], or why it cannot be read; threads keep `ahead` at hand."""

    def read(path: Path) -> Decoded:
        try:
            return images.load(path, model.image_size, model.resize)
        except ImageError as error:
            return error

    remaining = iter(files)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        waiting: deque[Future[Decoded]] = deque(pool.submit(read, path) for path in islice(remaining, ahead))
        try:
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(read, path) for path in islice(remaining, 1))
        finally:
            for future in waiting:
                future.cancel()


def _classify(
    files: Sequence[Path], decoded: Sequence[Decoded], model: LoadedModel, top_k: int, columns: Sequence[str]
) -> Iterator[dict[str, Any]]:
    pixels = [picture for picture in decoded if not isinstance(picture, ImageError)]
    probabilities: Iterator[NDArray[np.float32]] = iter(model.predict(pixels, batch_size=len(pixels)) if pixels else ())
    for path, picture in zip(files, decoded, strict=True):
        row: dict[str, Any] = {**dict.fromkeys(columns), "path": str(path)}
        if isinstance(picture, ImageError):
            yield {**row, "error": str(picture), "probabilities": None}
            continue
        scores = next(probabilities)
        row["error"] = ""
        # A stable sort of the negated scores: of equal classes the first comes first, as argmax has it.
        for rank, position in enumerate(np.argsort(-scores, kind="stable")[:top_k], start=1):
            suffix = "" if rank == 1 else f"_{rank}"
            row[f"label{suffix}"] = model.class_names[position]
            row[f"confidence{suffix}"] = float(scores[position])
        row["probabilities"] = dict(zip(model.class_names, map(float, scores), strict=True))
        yield row
