"""The model that a user names, as a file on this machine: a file, a run folder, or a model in MLflow.

All verbs take their MODEL through `model_file`, and write what belongs beside a model to `results_folder`.
"""

from __future__ import annotations

import os
from pathlib import Path

from kcv.common import files
from kcv.common.model_reference import FORMS, is_reference
from kcv.common.redaction import data_without_credentials
from kcv.common.text import printable, shortened
from kcv.errors import UsageError

_downloaded: set[Path] = set()
"""The files that this process has downloaded, or found in the cache."""


def model_file(named: str | Path, *, every: bool = False) -> Path:
    """Returns the model file that a user named.

    Args:
        named: a model file, a run folder that holds `model.keras`, or a model in MLflow (`models:/NAME/VERSION`,
            `models:/NAME@ALIAS`, `runs:/RUN_ID/PATH`), which is downloaded into the cache.
        every: of a model in MLflow that has both, also download `model.onnx`, which is then beside `model.keras`.

    Returns:
        The path of the file. A local one need not exist; opening it says so.

    Raises:
        UsageError: it is a URL of another kind.
        ArtifactError: MLflow has no such model, or no model file in it.
        TrackingError: the MLflow store cannot be reached.
        OutputError: a download cannot be written.

    Example:
        >>> model_file("runs/mine")
        PosixPath('runs/mine/model.keras')
    """
    if is_reference(named):
        from kcv.tracking.mlflow_models import fetch_model

        path = fetch_model(str(named), every=every)
        _downloaded.add(path)
        return path
    if isinstance(named, str) and ":" in named and not os.path.exists(named):
        from kcv.common.download import is_url  # imports what --help does without

        if is_url(named):
            shown = printable(shortened(data_without_credentials(named)))
            raise UsageError(f"{shown}: a model is a file, a run folder, {FORMS}.")
    return files.model_file(named)


def is_downloaded(model: Path) -> bool:
    """Returns whether `model_file` has downloaded a file in this process, so that it lies in the cache."""
    return model in _downloaded


def results_folder(model: Path) -> Path:
    """Returns the folder for what belongs beside a model file: that of the file.

    For a model of MLflow, whose file is in the cache, it is a folder of the model's name and version in the working
    folder.
    """
    return Path(model.parent.name) if is_downloaded(model) else model.parent
