"""Loads a split of a model's training data, or of other data, in the form that the model takes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from kcv.common import untrusted
from kcv.common.download import is_url
from kcv.common.redaction import data_without_credentials
from kcv.config import Config
from kcv.data import loading
from kcv.errors import ArtifactError, ConfigError, DataError
from kcv.inference.choice import chose_data

if TYPE_CHECKING:
    from kcv.config import DataConfig
    from kcv.data.dataset import Images
    from kcv.inference.keras_model import LoadedModel


def load_split(
    model: LoadedModel,
    split: str,
    source: str | None = None,
    *,
    most: int | None = None,
    tell: bool = False,
    warn: bool = True,
) -> Images:
    """Loads one split at a model's size, with labels as positions in the model's class names.

    Data named only by the model file must be identical to the training data. If this user chose them on this machine,
    they may have changed since; a warning reports it.

    Args:
        model: the model; its file says how training split the data and how images are resized.
        split: train, val or test.
        source: other data; None for the training data.
        most: the maximum number of images, evenly spread.
        tell: whether to log how a folder was interpreted.
        warn: whether to warn that the data have changed since training; False if the caller has already warned.

    Raises:
        DataError: as for `kcv.data.loading.load_split` and `data_config`.
    """
    info = model.info
    config = data_config(model, source)
    return loading.load_split(
        config.model_copy(update={"image_size": info.image_size, "resize": info.resize}),
        split,
        info.class_names,
        trained_on=info.data_fingerprint,
        same_source=is_own_data(model, source),
        most=most,
        began_in=working_folder(model.path.parent) if source is None else None,
        tell=tell,
        changed=source is None and chose_data(model),
        warn=warn,
    )


def working_folder(run: Path) -> Path:
    """Returns the working folder in which a run was started; relative paths in its configuration start from it.

    Args:
        run: the run folder.

    Returns:
        An absolute path; or the empty path, which is the current working folder, if the run does not record it: it was
        copied without its `environment.json`, or was written by an earlier version.
    """
    try:
        found = untrusted.read_json(run / "environment.json", ArtifactError)
    except ArtifactError:
        return Path()
    named = found.get("working_folder") if isinstance(found, dict) else None
    return Path(named) if isinstance(named, str) and os.path.isabs(named) else Path()


def data_config(model: LoadedModel, source: str | None) -> DataConfig:
    """Returns the data configuration in a model file, with the source replaced if one is given.

    The folder of the images of a label file counts only for the data that this user named it with.

    Raises:
        ArtifactError: this version of kcv cannot use the configuration.
        DataError: the file names a URL and the user does not: a file from someone else must not make kcv fetch it.
    """
    try:
        config = Config.from_dict(model.info.config).data
    except ConfigError as error:
        first, *more = error.problems
        others = f" (and {len(more)} more)" if more else ""
        raise ArtifactError(f"{model.path}: its configuration cannot be used: {first[:300]}{others}") from None
    if source is None and is_url(config.source):
        named = data_without_credentials(config.source)
        raise DataError(
            f"{model.path}: was trained on {named}, which is fetched only where you name it: --data={named} (with its "
            "user and query, where it had any: they are not kept)"
        )
    folder = config.image_folder
    if source is not None and not (source == config.source and chose_data(model)):
        folder = None  # named for other data, perhaps by someone else
    return config.model_copy(update={"source": source or config.source, "image_folder": folder})


def is_own_data(model: LoadedModel, source: str | None) -> bool:
    """Returns whether the source that a user named, or left out, stands for the model's training data."""
    if source is None:
        return True
    if not is_url(source):
        return False
    trained_on = str(model.info.data_options.get("source"))
    return data_without_credentials(trained_on) == data_without_credentials(source)
