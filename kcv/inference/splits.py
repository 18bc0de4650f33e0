"""A split of the data that a model was trained on, or of other data, as the model sees it."""

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
    """Loads one split at a model's size, its labels as positions in the model's class names.

    Data that only the model's file names must be what it was trained on. Where this user has chosen them, on this
    machine, they may have changed since; a warning says so.

    Args:
        model: its file says how training split the data, and how images are resized.
        split: train, val or test.
        source: of other images; None for what the model was trained on.
        most: take no more images than this, evenly spread.
        tell: whether to log what a folder was taken for.
        warn: whether to say that the data have changed since training; the caller may have said it before.

    Raises:
        DataError: as `kcv.data.loading.load_split`, or as `data_config`.
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
    """Returns the working folder in which a run began, which relative paths of its configuration start from.

    Args:
        run: the folder of the run.

    Returns:
        An absolute path; the empty one, the working folder of now, where the run does not say: it was copied without
        its `environment.json`, or is of an earlier version.
    """
    try:
        found = untrusted.read_json(run / "environment.json", ArtifactError)
    except ArtifactError:
        return Path()
    named = found.get("working_folder") if isinstance(found, dict) else None
    return Path(named) if isinstance(named, str) and os.path.isabs(named) else Path()


def data_config(model: LoadedModel, source: str | None) -> DataConfig:
    """Returns how a model's file describes its data, with another source where one is named.

    Raises:
        ArtifactError: its configuration is none of this kcv's.
        DataError: nobody has named the URL that the file has: a file of somebody else must not make kcv fetch it.
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
    return config.model_copy(update={"source": source or config.source})


def is_own_data(model: LoadedModel, source: str | None) -> bool:
    """Whether a source that a user named, or did not name, is meant to be what the model was trained on."""
    if source is None:
        return True
    if not is_url(source):
        return False
    trained_on = str(model.info.data_options.get("source"))
    return data_without_credentials(trained_on) == data_without_credentials(source)
