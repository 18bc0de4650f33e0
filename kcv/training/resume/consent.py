"""What a run folder may use by itself, and what the user must name again to resume it.

A run folder names data and a tracking store. If this user began the run, both are the user's own choice. If someone
else did, or that is unknown, anything that would reach another machine is used only if the user names it again. The
same holds for a registered model, which would get a new version, and for code: a function that the folder names as
`model.name` is imported only then.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from kcv.common.download import is_url
from kcv.common.text import printable, shortened
from kcv.config import Config
from kcv.errors import UsageError
from kcv.models.own import OwnName
from kcv.tracking import config_without_credentials, stays_inside
from kcv.training.resume.record import Record

TRACKING = "tracking.uri"
MODEL = "model.name"
REGISTER = "tracking.register"
_DATA = "data.source"


def require_named(config: Config, record: Record, named: Collection[str] | None, folder: Path) -> None:
    """Refuses to contact or import anything that neither this user nor this machine has chosen.

    Args:
        config: configuration of the run to resume.
        record: the record of how the run began.
        named: dotted keys that the user gave for this resumption; None: all keys.
        folder: the run folder, for the message.

    Raises:
        UsageError: something must be named again; the message says which flags.
    """
    if named is None:
        return
    uri = config_without_credentials(config).tracking.uri
    own_store = record.own and record.config.get(TRACKING) == uri
    flags = []
    # Without a uri, the user's own store is used: the one in MLFLOW_TRACKING_URI, or one in the working folder.
    if TRACKING not in named and uri is not None and not own_store and not stays_inside(uri, Path.cwd()):
        flags.append(("--tracking=", f"the tracking store {printable(shortened(uri))}", "--tracking=none"))
    if _DATA not in named and is_url(config.data.source) and not record.own:
        flags.append(("--data=", f"the data {printable(shortened(config.data.source))}", "--data=URL"))
    if MODEL not in named and OwnName.find(config.model.name) is not None and not record.own:
        flags.append(("--model=", f"the code {printable(shortened(config.model.name))}", "--model=FILE.py:FUNCTION"))
    registers = config.tracking.register
    own_name = record.own and record.config.get(REGISTER) == registers
    if REGISTER not in named and registers is not None and not own_name and uri != "none":
        name = printable(shortened(registers))
        flags.append(("--tracking.register=", f"the registered model {name}", "--tracking.register=NAME"))
    if flags:
        asked = " and ".join(what for _, what, _ in flags)
        ways = " ".join(example for _, _, example in flags)
        raise UsageError(
            f"--resume={folder}: the run names {asked}, and nothing shows that you began it on this machine; name "
            f"again what it may use, such as: {ways}"
        )
