"""Measuring an exported file on a split: the figures of `kcv evaluate`, by the file's own runtime.

An exported file does not know how training split its data, so the images are named, and a folder without splits is
measured as a whole. What needs the Keras model is left out: heat maps, calibration, the report.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from kcv.common.files import expand_user
from kcv.common.launch import Launch
from kcv.common.progress import Progress
from kcv.common.redaction import data_without_credentials
from kcv.common.text import cut_to_bytes
from kcv.errors import DataError, OutputError, UsageError
from kcv.inference.locating import results_folder
from kcv.inference.runtimes import runtime_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kcv.data.dataset import Images
    from kcv.inference.exported import ExportedModel
    from kcv.tasks.evaluate import Evaluation

_LONGEST_NAME = 100  # bytes of the data's name in that of the folder for its figures


def is_exported(path: str | Path) -> bool:
    """Returns whether a model file is an exported one, judged by its name."""
    return runtime_of(path) is not None


def folder_of(data: str, split: str) -> str:
    """Returns the name of the folder for the figures of a split of named data."""
    of = re.sub(r"[^\w.-]+", "-", Path(data_without_credentials(data)).name).strip("-.")
    return f"evaluation-{cut_to_bytes(of, _LONGEST_NAME) or 'data'}-{split}"


def evaluate_exported(
    path: Path,
    data: str | None,
    split: str,
    output_dir: str | Path | None,
    asked: Mapping[str, bool],
    batch_size: int | None,
    device: str,
    plots: bool,
    progress: bool,
) -> Evaluation:
    """Measures an exported file; see `kcv.evaluate`.

    Args:
        path: the file.
        data: source of the images.
        split: the split to measure.
        output_dir: folder for the figures; None: beside the file, `evaluation-<data>-<split>-<suffix of the file>`.
        asked: whether options were given that need the Keras model.
        batch_size: images per batch; None: the file's usual number.
        device: where to compute.
        plots: draw plots.
        progress: show a progress bar on a terminal.

    Raises:
        UsageError: no data are named, or an option needs the Keras model.
        DataError: the data cannot be read, or are those of training, of which the file does not know the split.
        ArtifactError: the file cannot be opened or run.
        OutputError: the folder cannot be written to, or is a link beside the file.
    """
    from kcv import metrics
    from kcv.common.untrusted import inside
    from kcv.reporting.evaluation_files import write_files
    from kcv.tasks.evaluate import Evaluation

    for option, given in asked.items():
        if given:
            raise UsageError(f"--{option}: needs model.keras; of {path.name} only the figures are measured.")
    if Launch.current().is_distributed:
        raise UsageError("evaluate: several processes measure model.keras only, not an exported file.")
    runtime = runtime_of(path)
    assert runtime is not None
    model = runtime.open(path, device, None)
    if data is None:
        raise UsageError(f"{path}: an exported file does not know its data; name them: --data=SOURCE.")
    images = _images(model, data, split)
    if output_dir is not None:
        folder = expand_user(output_dir)
    else:
        name = f"{folder_of(data, split)}-{path.suffix[1:].lower()}"
        folder = inside(results_folder(path), name, error=OutputError)
    probabilities = _probabilities(model, images, batch_size, f"evaluate {split}" if progress else None)
    figures = metrics.summarize(
        images.labels, probabilities, model.class_names, split, threshold=model.threshold, sets=model.sets
    )
    write_files(folder, figures, None, images, probabilities, path.parent, draw=plots)
    return Evaluation(figures, folder, images.labels, probabilities)


def _images(model: ExportedModel, data: str, split: str) -> Images:
    from kcv.config import Config
    from kcv.data import loading

    config = Config().data.model_copy(
        update={"source": data, "image_size": model.image_size, "resize": model.resize, "image_folder": None}
    )
    source = loading.open_source(data, options=loading.options_of(config, firm=False))
    if source.fingerprint == model.info.data_fingerprint and (source.flat or split not in source.splits):
        raise DataError(
            f"{source.name}: {model.path.name} was trained on it, and does not know which images; evaluate model.keras."
        )
    return loading.load_split(config, split, model.class_names, tell=True)


def _probabilities(
    model: ExportedModel, images: Images, batch_size: int | None, told: str | None
) -> NDArray[np.float64]:
    import numpy as np

    size = batch_size or model.preferred_batch
    rows = []
    with Progress(len(images) if told else None, told or "evaluate") as bar:
        for start in range(0, len(images), size):
            pixels = np.stack([images.read(i) for i in range(start, min(start + size, len(images)))])
            rows.append(model.predict_pixels(pixels))
            if told:
                bar.advance(len(pixels))
    return np.concatenate(rows).astype(np.float64)
