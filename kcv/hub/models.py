"""Models in the Hugging Face Hub as files: finds the commit, downloads the model file of it, and compares it.

What comes is untrusted like any file: it is checked when it is opened, by kcv and not by Keras' own loader. Here, a
download is bounded, and compared with the size and the hash that the hub lists for that commit.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from kcv import __version__
from kcv.common import model_cache
from kcv.common.files import sha256_of
from kcv.common.hub_reference import HubReference, is_commit
from kcv.common.progress import Progress
from kcv.common.text import printable, shortened
from kcv.errors import ArtifactError, HubError, UsageError
from kcv.hub.client import LIBRARY, asking, endpoint, open_client

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_log = logging.getLogger(__name__)

MODEL: Final = "model.keras"
ONNX: Final = "model.onnx"

_MOST_BYTES = 4 * 2**30
_MOST_SECONDS = 3600.0
_SECONDS = 30.0  # for an answer without files
_PIECE = 2**20
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class _File:
    """A file of a repository, as the hub lists it.

    Attributes:
        name: its name.
        size: its size in bytes.
        sha256: its SHA-256 (hex); None for a small file that is stored in git itself.
        blob: git's hash of it (SHA-1, hex); None if the hub lists none.
    """

    name: str
    size: int
    sha256: str | None
    blob: str | None

    @classmethod
    def of(cls, listed: Any, reference: HubReference) -> _File:
        name, size, large = listed.rfilename, listed.size, listed.lfs
        digest = (large.get("sha256") if isinstance(large, dict) else getattr(large, "sha256", None)) if large else None
        if not isinstance(size, int) or size < 0:
            raise HubError(f"{reference.text}: the hub does not list the size of {name}.")
        if digest and not (isinstance(digest, str) and _SHA256.fullmatch(digest)):
            raise HubError(f"{reference.text}: the hub lists no proper hash of {name}.")
        if size > _MOST_BYTES:
            raise ArtifactError(f"{reference.text}: its {name} has {size:,} bytes, allowed: {_MOST_BYTES:,}")
        blob = listed.blob_id
        return cls(name, size, digest or None, str(blob) if blob and not digest else None)


def fetch_from_hub(text: str, *, every: bool = False) -> tuple[Path, str]:
    """Downloads a model from the Hub, or finds it in the cache; asks the hub each time which files a commit has.

    Args:
        text: `hf://OWNER/NAME` for the newest commit, or `hf://OWNER/NAME@COMMIT`.
        every: also download the ONNX file where there is a Keras file too; it is then beside it.

    Returns:
        The file, `model.keras` or `model.onnx`, whose folder is named after repository and commit; and the reference
        with the commit.

    Raises:
        UsageError: the reference has another form, or names a branch or a tag.
        ArtifactError: there is no such repository or commit, no model file in it, or the file is not the expected one.
        HubError: the hub cannot be reached, or refuses; or its client is not installed.
        OutputError: nothing can be written.
    """
    asked = HubReference.parse(text)
    client = open_client()
    with asking(asked):
        reference, files = _listed(client, asked)
    chosen = [files[name] for name in (MODEL, ONNX) if name in files]
    if not chosen:
        raise ArtifactError(f"{asked.text}: holds no model of kcv ({MODEL} or {ONNX})")
    _log.info("model      %s is %s, from %s", asked.text, reference.text, endpoint())
    path = _fetched(chosen[0], reference)
    if every and len(chosen) > 1:
        _fetched(chosen[1], reference, beside=path)
    return path, reference.text


def _listed(client: HfApi, asked: HubReference) -> tuple[HubReference, dict[str, _File]]:
    """Returns the reference with its commit, and the model files there."""
    found = client.model_info(asked.repository, revision=asked.revision, files_metadata=True, timeout=_SECONDS)
    if not is_commit(found.sha):
        raise HubError(f"{asked.text}: the hub does not say which commit it is.")
    reference = asked.at(str(found.sha))
    if asked.revision not in (None, reference.revision):
        word = printable(shortened(str(asked.revision), 60))
        what = "is a branch or a tag, which may move"
        if reference.text.startswith(asked.text):
            what = "is not the whole commit"
        raise UsageError(f"{asked.text}: {word} {what}; name the commit: {reference.text}")
    listed = [each for each in found.siblings or () if each.rfilename in (MODEL, ONNX)]
    return reference, {each.rfilename: _File.of(each, reference) for each in listed}


def _fetched(file: _File, reference: HubReference, *, beside: Path | None = None) -> Path:
    """Returns a file in the cache, downloaded if it is not there."""
    label = model_cache.label(reference.title)
    if file.sha256 is not None and (place := model_cache.cached(file.sha256, label, file.name, beside=beside)):
        return place
    with model_cache.temporary() as folder:
        with asking(reference), Progress(file.size, f"downloading {file.name}", "bytes") as bar:
            _download(file, reference, folder, bar)
        came = folder / file.name
        _require_whole(came, file, reference)
        return model_cache.keep(came, label, file.name, beside=beside)


def _download(file: _File, reference: HubReference, folder: Path, bar: Progress) -> None:
    from huggingface_hub import hf_hub_download
    from tqdm import tqdm

    end = time.monotonic() + _MOST_SECONDS

    class Counting(tqdm):
        """The client tells a bar what came, before it writes it. This one counts, and ends what is too much."""

        came = 0

        def __init__(self, *arguments: Any, **options: Any) -> None:
            options.pop("name", None)
            super().__init__(*arguments, **{**options, "disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            Counting.came += int(n or 0)
            if Counting.came > file.size:
                raise ArtifactError(f"{reference.text}: more came of {file.name} than its {file.size:,} bytes")
            if time.monotonic() > end:
                raise HubError(f"{reference.text}: {file.name} takes longer than {_MOST_SECONDS:g} seconds.")
            bar.advance(int(n or 0))
            return None

    hf_hub_download(
        reference.repository,
        file.name,
        revision=reference.revision,
        local_dir=folder,
        endpoint=endpoint(),
        tqdm_class=Counting,
        library_name=LIBRARY,
        library_version=__version__,
    )


def _require_whole(came: Path, file: _File, reference: HubReference) -> None:
    """Compares a download with what the hub lists. The client itself compares its size alone."""
    size = os.path.getsize(came)
    if size != file.size:
        what = f"{size:,} of {file.size:,} bytes"
    elif _is_listed(came, file):
        return
    else:
        what = "other content than the hub lists"
    raise ArtifactError(f"{reference.text}: what came of {file.name} is not the expected file ({what})")


def _is_listed(came: Path, file: _File) -> bool:
    """Returns whether a file has the hash that the hub lists."""
    if file.sha256 is not None:
        return sha256_of(came) == file.sha256
    return file.blob is None or _git_hash(came, file.size) == file.blob


def _git_hash(path: Path, size: int) -> str:
    """Returns git's hash of a file: the SHA-1 of a header and the content (Git Internals, Git Objects)."""
    digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()
