"""A split of the data that a model was trained on, or of other data, as the model sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kcv import data
from kcv.config import Config

if TYPE_CHECKING:
    from kcv.artifact.loaded import LoadedModel
    from kcv.data.dataset import Pictures


def load_split(model: LoadedModel, split: str, source: str | None = None, *, most: int | None = None) -> Pictures:
    """Loads one split at a model's size, its labels as positions in the model's class names.

    Args:
        model: its file says how training split the data, and how pictures are resized.
        split: train, val or test.
        source: of other pictures; None for what the model was trained on.
        most: take no more pictures than this, evenly spread.

    Raises:
        DataError: as `kcv.data.load_split`.
    """
    info = model.info
    config = Config.from_dict(info.config, origin=f"the configuration in {model.path}").data
    changes = {"source": source or config.source, "image_size": info.image_size, "resize": info.resize}
    return data.load_split(
        config.model_copy(update=changes),
        split,
        info.class_names,
        trained_on=info.data_fingerprint,
        same_source=source is None,
        most=most,
    )
