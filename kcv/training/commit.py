"""Reads the commit of the working folder, which may be untrusted, without running anything its git config names.

`git` itself obeys a folder's configuration, which may name programs (core.fsmonitor, filters, hooks, pagers), so the
commit is read from git's files directly. To find out whether files differ from it, git is run on a separate, empty
repository that uses the folder's objects, so it reads neither the folder's configuration nor its submodules.
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
    """Returns the commit of a folder, with `-dirty` if tracked files differ, or None outside a git work tree.

    Args:
        folder: the folder; it or a parent contains `.git`, either a folder or, in a linked worktree, a file naming one.
    """
    try:
        folder = folder.absolute()
        for place in (folder, *folder.parents):
            found = _git_folder(place)
            if found is not None:
                commit = _head(found)
                return f"{commit}-dirty" if commit is not None and _differs(place, found, commit) else commit
    except (DataError, OSError, ValueError):
        pass  # the commit is only provenance: failing to read it must not stop a run
    return None


def _git_folder(place: Path) -> Path | None:
    """Returns the git folder of a work tree, or None if there is none."""
    named = place / ".git"
    if os.path.isdir(named):
        return named if os.path.isfile(named / "HEAD") else None
    if not os.path.isfile(named):
        return None
    word, _, path = _text(named).partition(": ")
    return place / path if word == "gitdir" and path else None


def _head(folder: Path) -> str | None:
    """Returns the commit of HEAD; a branch is stored in its own file or in the packed refs."""
    head = _text(folder / "HEAD")
    for _ in range(5):  # references may point to references
        if _COMMIT.fullmatch(head):
            return head
        named = _REF.fullmatch(head)
        if named is None or ".." in named[1].split("/"):
            return None
        head = next(_values_of(folder, named[1]), "")
    return None


def _values_of(folder: Path, ref: str) -> Iterator[str]:
    """Yields the values of a reference in git's files: first the work tree's own, then the shared ones."""
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
    """Returns the folder that linked worktrees share, with objects, branches and tags."""
    return folder / _text(folder / "commondir") if os.path.isfile(folder / "commondir") else folder


def _text(path: Path) -> str:
    return read_bytes(path, _MOST_HEAD_BYTES, DataError).decode("utf-8", "replace").strip()


def _differs(place: Path, folder: Path, commit: str) -> bool:
    """Returns whether files of a work tree differ from a commit; False if git is missing or fails."""
    git = shutil.which("git")
    index = folder / "index"
    # Windows searches the working folder first, and programs there must not be run.
    if git is None or not os.path.isabs(git) or len(commit) != 40:
        return False
    # Must be a regular file: a pipe would block git.
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
            "GIT_OPTIONAL_LOCKS": "0",  # write nothing
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_TERMINAL_PROMPT": "0",
        }
        # A submodule has its own configuration, which git would obey in a separate process.
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
