"""The manifest that completes a checkpoint: its position in training, its files and their checksums."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from kcv.common import seal
from kcv.common.files import write_json
from kcv.common.untrusted import read
from kcv.errors import DataError

_MOST: Final = 10**9  # epochs, and steps per epoch; no training run has that many
_Count = Annotated[int, Field(ge=0, le=_MOST)]
_FileName = Annotated[str, Field(pattern=r"^(checkpoint|best)-\d{8}\.safetensors$")]
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Manifest(BaseModel):
    """The file `checkpoint-N.json`.

    Attributes:
        epoch: see `State`.
        step: see `State`.
        best: the file of the best weights; None before the end of the first epoch.
        files: SHA-256 of each file, including the state's own.
        sha256: SHA-256 of all other fields, in hex; None in files of earlier versions.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    epoch: _Count
    step: _Count
    best: _FileName | None = None
    files: dict[_FileName, _Sha256]
    sha256: _Sha256 | None = None

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Reads a manifest.

        Raises:
            DataError: it is missing or damaged, or names files that do not belong to this checkpoint.
        """
        found = read(path, cls, DataError)
        if found.sha256 is not None and found.sha256 != seal.checksum(found._content()):
            raise DataError(f"{path}: its checksum is of other content")
        own = {f"{path.stem}.safetensors"} | ({found.best} if found.best else set())
        if set(found.files) != own:
            raise DataError(f"{path}: it names other files than its own")
        return found

    def write(self, path: Path) -> None:
        """Writes the manifest with its checksum.

        Raises:
            OutputError: it cannot be written.
        """
        content = self._content()
        write_json(path, {**content, "sha256": seal.checksum(content)})

    def _content(self) -> dict[str, Any]:
        return self.model_dump(exclude={"sha256"}, exclude_none=True)
