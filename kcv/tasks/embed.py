"""Feature vectors of images: for searching, clustering and choosing what to label next (decision 028).

paths -> model -> vectors, batch by batch -> (a file) -> (a list of images to label)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from kcv.common.files import expand_user
from kcv.common.parameters import AtLeast, Device, ListedOnStdin, PythonOnly, checked
from kcv.common.progress import Progress
from kcv.errors import DataError, UsageError
from kcv.inference.locating import model_file
from kcv.stores.location import is_object_url, require_text

if TYPE_CHECKING:
    from kcv.images.urls import Image
    from kcv.inference.embedding import Embedder, EmbeddingJob
    from kcv.inference.picking import Picker

_LIST = "to_label.csv"


@checked
def embed(
    paths: Annotated[str | Path | Iterable[str | Path], ListedOnStdin()],
    model: str | Path,
    *,
    output: str | Path | None = None,
    pick: Annotated[int, AtLeast(1)] | None = None,
    pick_output: str | Path = _LIST,
    batch_size: Annotated[int, AtLeast(1)] | None = None,
    device: Device = "auto",
    recursive: bool = False,
    progress: Annotated[bool, PythonOnly()] = False,
) -> Iterator[dict[str, Any]]:
    """Compute feature vectors of images, for search and for choosing what to label.

    The vector of an image is the input of the model's last dense layer. Rows come in the order of the input, while
    later images are still being read, as from `predict`.

    Args:
        paths: images, folders, URLs, s3://BUCKET/PREFIX/ or quoted patterns ('photos/*.jpg'); - reads a list of images
            from standard input. From Python also an iterator, whose paths are taken as they come.
        model: a model file (model.keras, model.onnx), or a run folder. Also a model in MLflow: models:/NAME/VERSION,
            models:/NAME@ALIAS or runs:/RUN_ID/PATH; or in the Hugging Face Hub: hf://OWNER/NAME[@COMMIT].
            Both kinds of file give the same vectors, up to rounding.
        output: write the vectors to this file, .parquet, or to the object s3://BUCKET/NAME.parquet. It appears when the
            last row has been taken.
        pick: also list this many images to label next: uncertain ones that differ from each other.
        pick_output: file for that list, .csv, which --data takes once its labels are filled in.
        batch_size: images per batch; default: chosen by their size.
        device: where to compute.
        recursive: search folders recursively.
        progress: show a progress bar on a terminal.

    Returns:
        Rows: `path`, `vector` (float32 [width]), `label` and `confidence` (0-1) of the most probable class, and `error`
        ("" where fine; else all but `path` are None).

    Raises:
        DataError: a path does not exist or stands for no image.
        UsageError: a file has another suffix.
        ArtifactError: the model cannot be opened, or its last layer is not a dense one.
        OutputError: a file cannot be written (while rows are taken).

    Example:
        $ kcv embed photos --recursive --model=runs/mine --output=vectors.parquet
        $ kcv embed unlabelled --model=runs/mine --pick=100
        >>> [row["vector"] for row in kcv.embed("photos", "runs/mine/model.onnx")]
    """
    from kcv.images.urls import found
    from kcv.inference.embedding import EmbeddingJob, open_embedder
    from kcv.inference.picking import Picker
    from kcv.inference.vector_file import require_parquet

    target, listed = expand_user(output) if output is not None else None, expand_user(pick_output)
    stored = None
    require_text(output)
    if is_object_url(output):
        from kcv.inference.stored_output import StoredOutput

        stored = StoredOutput.open(str(output), require_parquet)
        target = stored.path
    elif target is not None:
        require_parquet(target)
    if pick is not None and listed.suffix.lower() != ".csv":
        raise UsageError(f"--pick_output: received {str(listed)!r}, allowed: a name that ends in .csv.")
    named = [] if isinstance(paths, Iterator) else [paths] if isinstance(paths, str | Path) else list(paths)
    files: Iterator[Image] = map(Path, paths) if isinstance(paths, Iterator) else found(named, recursive=recursive)
    first_two = list(islice(files, 2))
    if not first_two:
        raise DataError("no images were named.")
    embedder = open_embedder(model_file(model), device=device, threads=None if len(first_two) == 1 else 1)
    bar = None
    if progress:
        counted = found(named, recursive=recursive) if sys.stderr.isatty() else ()
        bar = Progress(sum(1 for _ in counted), "embed")
    job = EmbeddingJob.of(embedder, batch_size)
    picker = Picker(pick) if pick is not None else None
    rows = _rows(job, embedder, chain(first_two, files), target, picker, listed, bar)
    return rows if stored is None else _then(rows, stored.send)


def _then(rows: Iterator[dict[str, Any]], done: Callable[[], None]) -> Iterator[dict[str, Any]]:
    yield from rows
    done()


def _rows(
    job: EmbeddingJob,
    embedder: Embedder,
    files: Iterator[Image],
    output: Path | None,
    picker: Picker | None,
    listed: Path,
    bar: Progress | None,
) -> Iterator[dict[str, Any]]:
    from kcv.inference.prediction import written
    from kcv.inference.vector_file import open_vectors

    file = open_vectors(output, embedder.origin) if output is not None else None
    if picker is None:
        yield from written(job, files, file, bar)
        return
    yield from written(job, files, file, bar, picker.add)
    _write_list(picker, listed)


def _write_list(picker: Picker, path: Path) -> None:
    """Writes the picked images as a label file without labels, and logs how it is used.

    Its paths are relative to its folder, or to the folder that holds all images where they lie elsewhere: label files
    lead to no other place.
    """
    import logging

    from kcv.common.files import write_csv

    log = logging.getLogger(__name__)
    rows = picker.picked()
    paths = [os.path.abspath(row["path"]) if "://" not in row["path"] else row["path"] for row in rows]
    local = [place for place in paths if "://" not in place]
    beside = os.path.abspath(path.parent)
    inside = all(os.path.commonpath([beside, place]) == beside for place in local)
    folder = beside if inside or not local else os.path.commonpath([os.path.dirname(place) for place in local])
    shown = [place if "://" in place else Path(os.path.relpath(place, folder)).as_posix() for place in paths]
    cells = [(place, "", row["label"], f"{row['confidence']:.6f}") for place, row in zip(shown, rows, strict=True)]
    write_csv(path, ("path", "label", "likeliest", "confidence"), cells)
    elsewhere = "" if folder == beside else f" --data.image_folder={folder}"
    log.info("%d images to label in %s; with labels: kcv train --data=%s%s", len(rows), path, path, elsewhere)
