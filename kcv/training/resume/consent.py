"""What a run folder may ask for by itself, and what the user must name who continues it, or measures its model.

A run folder names data and a tracking store. Where this user began the run, they are the user's own choice. Where
somebody else did, or nobody knows, whatever would reach another machine is used only if it was named again.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from kcv.common import untrusted
from kcv.common.download import is_url
from kcv.common.text import plain
from kcv.config import Config
from kcv.errors import ArtifactError, UsageError
from kcv.inference.keras_model import LoadedModel
from kcv.tracking import config_without_credentials, stays_inside
from kcv.training.resume import seal
from kcv.training.resume.record import Record

_TRACKING, _DATA = "tracking.uri", "data.source"
_CHOICE = "data_signature"


def require_named(config: Config, record: Record, named: Collection[str] | None, folder: Path) -> None:
    """Refuses to use what neither this user nor this machine has chosen.

    Args:
        config: of the run that is to be continued.
        record: what the run began with.
        named: the keys that the user gave for this continuation, dotted; None: all of them.
        folder: of the run, for the message.

    Raises:
        UsageError: something has to be named again; the message says which flags.
    """
    if named is None:
        return
    uri = config_without_credentials(config).tracking.uri
    own_store = record.own and record.config.get(_TRACKING) == uri
    flags = []
    # Without a uri it is the user's own store: that of MLFLOW_TRACKING_URI, or one in the working folder.
    if _TRACKING not in named and uri is not None and not own_store and not stays_inside(uri, Path.cwd()):
        flags.append(("--tracking=", f"the tracking store {plain(uri)}", "--tracking=none"))
    if _DATA not in named and is_url(config.data.source) and not record.own:
        flags.append(("--data=", f"the data {plain(config.data.source)}", "--data=URL"))
    if flags:
        asked = " and ".join(what for _, what, _ in flags)
        ways = " ".join(example for _, _, example in flags)
        raise UsageError(
            f"--resume={folder}: the run names {asked}, and nothing shows that you began it on this machine; name "
            f"again what it may use, such as: {ways}"
        )


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
