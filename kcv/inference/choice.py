"""Checks whether the user, and not someone else, chose the data that a model file names.

A model file names its training data. If this user started the run, the data are their own choice and may have changed
since; otherwise the user must name them again.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kcv.common import seal, untrusted
from kcv.errors import ArtifactError

if TYPE_CHECKING:
    from kcv.config import Config
    from kcv.inference.keras_model import LoadedModel

_CHOICE = "data_signature"


def signed_choice(config: Config, fingerprint: str, working_folder: Path) -> dict[str, str | None]:
    """Returns the entries of a run's `environment.json` that later prove that this user chose its data.

    Args:
        config: the configuration of the run, without credentials.
        fingerprint: the fingerprint of the data.
        working_folder: the folder that a relative path of the data starts from.
    """
    place = str(working_folder)
    signed = seal.signature(_choice(config.data.source, config.data.image_folder, fingerprint, place))
    return {"working_folder": place, _CHOICE: signed}


def chose_data(model: LoadedModel) -> bool:
    """Returns whether this user started the run next to a model file, on this machine, on the data that the file names.

    The file itself proves nothing: the signature must cover the data that it names and the folders that their
    paths start from.
    """
    try:
        path = untrusted.inside(model.path.parent, "environment.json", error=ArtifactError)
        found = untrusted.read_json(path, ArtifactError)
    except ArtifactError:
        return False
    place, signed = (found.get(key) for key in ("working_folder", _CHOICE)) if isinstance(found, dict) else (None, None)
    if not isinstance(place, str) or not isinstance(signed, str):
        return False
    info = model.info
    options = info.data_options
    choice = _choice(options.get("source"), options.get("image_folder"), info.data_fingerprint, place)
    return seal.is_own(choice, signed)


def _choice(source: Any, image_folder: Any, fingerprint: str | None, working_folder: str) -> dict[str, Any]:
    chosen = {"source": source, "fingerprint": fingerprint, "working_folder": working_folder}
    # Earlier versions had no such folder, and their signatures stay valid.
    return {"chosen": chosen if image_folder is None else {**chosen, "image_folder": image_folder}}
