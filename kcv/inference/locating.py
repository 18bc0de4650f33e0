"""The model that a user names, as a file on this machine: a file, a run folder, or a model in MLflow or the Hub.

All verbs take their MODEL through `model_file`, and write what belongs beside a model to `results_folder`.
"""

from __future__ import annotations

import os
from pathlib import Path

from kcv.common import files
from kcv.common.hub_reference import is_in_hub
from kcv.common.model_reference import FORMS, is_in_mlflow
from kcv.common.redaction import data_without_credentials
from kcv.common.text import printable, shortened
from kcv.errors import UsageError

_downloaded: dict[Path, str] = {}
"""The files that this process has downloaded, or found in the cache, and what each of them is."""


def model_file(named: str | Path, *, every: bool = False) -> Path:
    """Returns the model file that a user named.

    Args:
        named: a model file, a run folder that holds `model.keras`, or a model in MLflow (`models:/NAME/VERSION`,
            `models:/NAME@ALIAS`, `runs:/RUN_ID/PATH`) or in the Hugging Face Hub (`hf://OWNER/NAME[@COMMIT]`), which is
            downloaded into the cache.
        every: of a model elsewhere that has both, also download `model.onnx`, which is then beside `model.keras`.

    Returns:
        The path of the file. A local one need not exist; opening it says so.

    Raises:
        UsageError: it is a URL of another kind.
        ArtifactError: MLflow or the Hub has no such model, or no model file in it.
        TrackingError: the MLflow store cannot be reached.
        HubError: the Hub cannot be reached, or refuses.
        OutputError: a download cannot be written.

    Example:
        >>> model_file("runs/mine")
        PosixPath('runs/mine/model.keras')
    """
    if is_in_mlflow(named):
        from kcv.tracking.mlflow_models import fetch_model

        path = fetch_model(str(named), every=every)
        _downloaded[path] = str(path)
        return path
    if is_in_hub(named):
        from kcv.hub.models import fetch_from_hub

        path, pinned = fetch_from_hub(str(named), every=every)
        _downloaded[path] = pinned
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


def source_of(model: Path) -> str:
    """Returns what a run stores as the source of a file.

    Of a model in the Hub it names the commit, whatever the user typed; of all others it is the path of the file.

    Example:
        >>> source_of(model_file("hf://anna/photos"))
        'hf://anna/photos@d9c5e8b1...'
    """
    return _downloaded.get(model, str(model))


def results_folder(model: Path) -> Path:
    """Returns the folder for what belongs beside a model file: that of the file.

    For a model of MLflow or the Hub, whose file is in the cache, it is a folder of the model's name and version (or
    commit) in the working folder.
    """
    return Path(model.parent.name) if is_downloaded(model) else model.parent
