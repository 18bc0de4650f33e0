"""Whether a user has chosen the data that a model's file names, or somebody else has.

A model file names the data that it was trained on. Where this user began the run, they are the user's own choice, and
may have changed since; else they must be named again.
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
    """Returns what a run's `environment.json` says of its data, to show later that this user chose them.

    Args:
        config: of the run, without credentials.
        fingerprint: of the data.
        working_folder: where a relative path of the data starts.
    """
    place = str(working_folder)
    return {"working_folder": place, _CHOICE: seal.signature(_choice(config.data.source, fingerprint, place))}


def chose_data(model: LoadedModel) -> bool:
    """Tells whether this user, on this machine, began the run beside a model's file on the data that the file names.

    The file itself proves nothing: what is signed must be what it names, and where a relative path leads.
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
    return seal.is_own(_choice(info.data_options.get("source"), info.data_fingerprint, place), signed)


def _choice(source: Any, fingerprint: str | None, working_folder: str) -> dict[str, Any]:
    return {"chosen": {"source": source, "fingerprint": fingerprint, "working_folder": working_folder}}
