"""Rows that go to an object store: written to a file in the cache folder, which is sent when it is complete.

So the object appears whole or not at all, a cut or slow line costs no prediction, and parts of it are resumed as those
of any other output are.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kcv.common.download import lasting
from kcv.common.launch import Launch
from kcv.common.rows import check_suffix
from kcv.common.text import cut_to_bytes
from kcv.errors import OutputError, UsageError
from kcv.stores.location import Location
from kcv.stores.writing import require_writable, upload

_log = logging.getLogger(__name__)

FOLDER = "outputs"
"""In the cache folder."""

_DIGITS = 16
_MOST_NAME = 100  # bytes


@dataclass(frozen=True)
class StoredOutput:
    """The object that rows are written to.

    Attributes:
        place: where it will be.
        path: the file of the rows until then.
    """

    place: Location
    path: Path

    @classmethod
    def open(cls, url: str, check: Callable[[Path], None] = check_suffix, launch: Launch | None = None) -> StoredOutput:
        """Checks that an object can be written, before the work is done.

        Args:
            url: its URL.
            check: raises an error for a name with a wrong suffix.
            launch: this process among others; None where it works alone.

        Raises:
            UsageError: another suffix, or processes on several machines, which have no folder for parts in common.
            OutputError: there is no such bucket, it may not be written, or the cache folder cannot be written to.
        """
        place = Location.parse(url, OutputError)
        check(Path(url))
        launch = launch or Launch()
        if launch.local_world_size < launch.world_size:
            raise UsageError(
                "predict: processes on several machines share the parts of a prediction in a common folder; name a "
                "file there, --output=FOLDER/FILE, and copy it to the store."
            )
        folder = lasting(FOLDER)
        if launch.is_main_process:
            require_writable(place)
        digest = hashlib.sha256(str(place).encode(errors="surrogateescape")).hexdigest()[:_DIGITS]
        name = Path(place.key).name
        short = cut_to_bytes(Path(name).stem, _MOST_NAME) + Path(name).suffix
        return cls(place, folder / f"{digest}-{short}")

    def send(self) -> None:
        """Sends the complete file, and removes it from the cache folder.

        Raises:
            OutputError: the store refuses or cannot be reached; the message says where the rows are.
        """
        try:
            upload(self.path, self.place)
        except OutputError as error:
            raise OutputError(f"{error} The rows are complete in {self.path}: copy the file from there.") from None
        _log.info("sent       %s bytes to %s", f"{self.path.stat().st_size:,}", self.place)
        self.path.unlink(missing_ok=True)
