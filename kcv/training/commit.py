"""The commit of the working folder, which may be a stranger's: nothing that its git configuration names is run.

`git` itself obeys a folder's configuration, which may name programs (core.fsmonitor, filters, hooks, pagers). So the
commit is read from git's files. Whether files differ from it is asked of git, which is shown another, empty repository
with the folder's objects: of the folder's configuration and of its submodules it reads nothing.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from kcv.common.untrusted import read_bytes
from kcv.errors import DataError

_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_REF = re.compile(r"ref: (refs/[^\s\\:*?\[~^\x00-\x20\x7f]+)")
_MOST_HEAD_BYTES = 4096
_MOST_PACKED_BYTES = 64 * 2**20
_MOST_INDEX_BYTES = 2**30
_SECONDS = 10.0


def commit_of(folder: Path) -> str | None:
    """Returns the commit that a folder is at, with `-dirty` where files that git knows differ, or None outside of git.

    Args:
        folder: it, or one above it, holds `.git`: a folder, or, in a linked worktree, a file that names one.
    """
    try:
        folder = folder.absolute()
        for place in (folder, *folder.parents):
            found = _git_folder(place)
            if found is not None:
                commit = _head(found)
                return f"{commit}-dirty" if commit is not None and _differs(place, found, commit) else commit
    except (DataError, OSError, ValueError):
        pass  # it only says where a run came from: no reason to stop one
    return None


def _git_folder(place: Path) -> Path | None:
    """Returns git's own folder of a work tree, or None where there is none."""
    named = place / ".git"
    if os.path.isdir(named):
        return named if os.path.isfile(named / "HEAD") else None
    if not os.path.isfile(named):
        return None
    word, _, path = _text(named).partition(": ")
    return place / path if word == "gitdir" and path else None


def _head(folder: Path) -> str | None:
    """Returns the commit of HEAD; a branch's stands in a file of its own, or in one with those of many."""
    head = _text(folder / "HEAD")
    for _ in range(5):  # names may stand for names
        if _COMMIT.fullmatch(head):
            return head
        named = _REF.fullmatch(head)
        if named is None or ".." in named[1].split("/"):
            return None
        head = next(_values_of(folder, named[1]), "")
    return None


def _values_of(folder: Path, ref: str) -> Iterator[str]:
    """Yields what the files of git say of a reference: those of the work tree, then those that all of them share."""
    common = _common(folder)
    for place in dict.fromkeys((folder, common)):
        if os.path.isfile(place / ref):
            yield _text(place / ref)
    if os.path.isfile(packed := common / "packed-refs"):
        for line in read_bytes(packed, _MOST_PACKED_BYTES, DataError).decode("utf-8", "replace").splitlines():
            commit, _, name = line.partition(" ")
            if name == ref:
                yield commit


def _common(folder: Path) -> Path:
    """Returns the folder that linked worktrees share: of objects, branches and tags."""
    return folder / _text(folder / "commondir") if os.path.isfile(folder / "commondir") else folder


def _text(path: Path) -> str:
    return read_bytes(path, _MOST_HEAD_BYTES, DataError).decode("utf-8", "replace").strip()


def _differs(place: Path, folder: Path, commit: str) -> bool:
    """Tells whether files of a work tree differ from a commit; where git is not there or does not say, they do not."""
    git = shutil.which("git")
    index = folder / "index"
    # Windows looks into the working folder first, whose programs are not ours to run.
    if git is None or not os.path.isabs(git) or len(commit) != 40:
        return False
    # No regular file: a pipe would hold git.
    if not os.path.isfile(index) or os.path.getsize(index) > _MOST_INDEX_BYTES:
        return False
    with tempfile.TemporaryDirectory(prefix="kcv-git-") as own:
        for name in ("objects", "refs"):
            Path(own, name).mkdir()
        Path(own, "HEAD").write_text(f"{commit}\n", encoding="ascii")
        kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        environment = {
            **kept,
            "GIT_DIR": own,
            "GIT_WORK_TREE": str(place.absolute()),
            "GIT_INDEX_FILE": str(index.absolute()),
            "GIT_OBJECT_DIRECTORY": str((_common(folder) / "objects").absolute()),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_OPTIONAL_LOCKS": "0",  # nothing is written
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_TERMINAL_PROMPT": "0",
        }
        # A submodule has a configuration of its own, which git would obey in a process of its own.
        words = ["status", "--porcelain", "--untracked-files=no", "--ignore-submodules=all", "--no-renames"]
        try:
            told = subprocess.run(
                [git, "--no-pager", *words],
                cwd=place,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_SECONDS,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return False
    return bool(told.stdout.strip())
