"""Publishing a model in the Hugging Face Hub: what kcv opens, what Keras opens, and a card that the hub reads.

run folder -> model.keras without places on this machine, Keras' layout, model.onnx, README.md -> one commit
"""

from __future__ import annotations

import dataclasses
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from kcv.common.files import expand_user, temporary_folder
from kcv.common.parameters import PythonOnly, Second, checked
from kcv.errors import DataError, UsageError
from kcv.inference.locating import is_downloaded, model_file

if TYPE_CHECKING:
    from kcv.common.hub_reference import HubReference

_log = logging.getLogger(__name__)

README = "README.md"
_ONNX = "model.onnx"
_MOST_CARD_BYTES = 2**20
_BRANCH_ALLOWED = "the name of a branch"


@dataclass(frozen=True)
class Pushed:
    """A model in the Hub.

    Attributes:
        model: what names it in place of a file, with its commit: `hf://OWNER/NAME@COMMIT`.
        commit: the commit, 40 hexadecimal digits.
        page: the address of the repository at this commit.
        files: sizes in bytes by name.
    """

    model: str
    commit: str
    page: str
    files: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Returns all of it as plain values."""
        return dataclasses.asdict(self)


@checked
def push(
    run: str | Path,
    repo: Annotated[str, Second()],
    *,
    onnx: bool = False,
    card: str | Path | None = None,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    progress: Annotated[bool, PythonOnly()] = False,
) -> Pushed:
    """Publish a model in the Hugging Face Hub, with its card.

    One commit holds `model.keras` and `kcv.json`; `config.json`, `metadata.json` and `model.weights.h5`, which Keras
    opens by itself; `model.onnx` if there is one of this model; and `README.md`. Paths on this machine and the tracking
    store are left out. The token is the one in HF_TOKEN, otherwise that of `hf auth login`.

    Args:
        run: a run folder, or the model file in it. Also a model in MLflow or in the Hub.
        repo: the repository, hf://OWNER/NAME. It is made if there is none.
        onnx: export the model to an ONNX file first, if there is none beside it.
        card: file with the text of the card, in Markdown; default: the one that `report` writes. A header of its own is
            kept.
        private: make the repository private; one that is there already must be private.
        revision: branch to push to; default: main. It is made if there is none.
        message: subject of the commit; default: the name of the model and the version of kcv.
        progress: show progress bars on a terminal.

    Raises:
        UsageError: the repository has no such name, or is public although `private` is asked for.
        ArtifactError: the model cannot be opened; or there is no such owner, or the repository is not for this user.
        DataError: the figures of the run are damaged, or the card cannot be read.
        HubError: there is no token, it gives no right to write, the hub cannot be reached or refuses, or its client is
            not installed.
        ExportError: the model has no form in ONNX.
        ParityError: the ONNX file does not say what the model says.
        OutputError: there is no room for temporary files.

    Example:
        $ kcv push runs/mine hf://anna/photos
        $ kcv push runs/mine hf://anna/photos --private --onnx
        >>> kcv.push("runs/mine", "hf://anna/photos").model
        'hf://anna/photos@d9c5e8b1...'
    """
    from kcv.hub.client import endpoint
    from kcv.hub.pushing import push_files, require_writable

    target = _target(repo, revision)
    text = _card_text(card)
    require_writable(target, private=private)  # before anything is computed
    model = model_file(run)
    with temporary_folder("kcv-push-") as place:
        files, subject = _files(model, target, place, text, onnx=onnx)
        sizes = {name: path.stat().st_size for name, path in files.items()}
        _log.info("pushing    %d files, %.1f MB", len(files), sum(sizes.values()) / 1e6)
        made = push_files(
            files,
            target,
            message=message or subject,
            gone=[name for name in (_ONNX,) if name not in files],
            private=private,
            branch=revision,
            bars=progress,
        )
    commit = str(made.revision)
    return Pushed(made.text, commit, f"{endpoint()}/{made.repository}/tree/{commit}", sizes)


def _target(repo: str, branch: str | None) -> HubReference:
    """Returns the repository.

    Raises:
        UsageError: the name is none, or a commit is named, to which nothing can be added.
    """
    from kcv.common.hub_reference import HubReference, is_commit

    target = HubReference.parse(repo)
    if target.revision is not None:
        raise UsageError(f"{repo}: a push makes a commit of its own; for a branch: --revision=NAME.")
    if is_commit(branch):
        raise UsageError(f"--revision: received {branch!r}, allowed: {_BRANCH_ALLOWED}.")
    return target


def _card_text(card: str | Path | None) -> str | None:
    from kcv.common.untrusted import read_bytes

    if card is None:
        return None
    try:
        return read_bytes(expand_user(card), _MOST_CARD_BYTES, DataError).decode("utf-8")
    except UnicodeDecodeError:
        raise DataError(f"{card}: is no UTF-8 text") from None


def _files(
    model: Path, target: HubReference, place: Path, text: str | None, *, onnx: bool
) -> tuple[dict[str, Path], str]:
    """Writes the files of the repository, and returns them by name, and the subject of the commit."""
    from kcv import __version__
    from kcv.common.untrusted import inside
    from kcv.exporting.published import publish, published_info, without_place
    from kcv.reporting.hub_card import hub_card, without_weights_place
    from kcv.reporting.material import gather

    files = publish(model, place)
    if (exported := _onnx_file(model, place, wanted=onnx)) is not None:
        files[_ONNX] = exported
    material = gather(model, inside(model.parent, "evaluation", error=DataError))
    public = published_info(material.info)
    material = dataclasses.replace(material, model=files[model.name], info=public)
    material = without_weights_place(material, without_place(material.weights))
    readme = place / README
    readme.write_text(hub_card(material, target, onnx=exported is not None, text=text), encoding="utf-8")
    return {README: readme, **files}, f"{public.model_name}, kcv {__version__}"


def _onnx_file(model: Path, place: Path, *, wanted: bool) -> Path | None:
    """Returns the ONNX file of a model: the one beside it if that is the same model, or a new one if it is wanted."""
    from kcv.serving.place import difference

    beside = model.with_suffix(".onnx")
    reason = None
    if os.path.isfile(beside) and not is_downloaded(model):
        reason = difference(beside, model)
        if reason is None:
            return beside
    if wanted:
        from kcv.tasks.export import export

        return export(model, place / _ONNX).path
    if reason is not None:
        _log.warning("%s %s: it is not pushed; --onnx exports one for the hub", beside, reason)
    return None
