"""The commit is found without running what a stranger's git configuration names."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from kcv.training.commit import commit_of

PROGRAMS = (
    "core.fsmonitor", "core.pager", "core.sshCommand", "core.editor", "diff.external", "gpg.program",
    "filter.theirs.clean", "filter.theirs.smudge", "filter.theirs.process", "alias.status", "alias.describe",
)  # fmt: skip


def git(folder: Path, *words: str) -> str:
    own = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    who = ["-c", "user.email=a@b", "-c", "user.name=a", "-c", "protocol.file.allow=always"]
    done = subprocess.run(
        ["git", *who, *words], cwd=folder, env={**os.environ, **own}, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "a.txt").write_text("one\n")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def test_the_commit_and_whether_files_differ(repository: Path) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    assert commit_of(repository) == commit
    (repository / "new.txt").write_text("unknown to git\n")
    (repository / "sub").mkdir()
    assert commit_of(repository / "sub") == commit
    (repository / "a.txt").write_text("two\n")
    assert commit_of(repository) == f"{commit}-dirty"
    git(repository, "add", "a.txt")
    assert commit_of(repository) == f"{commit}-dirty"
    git(repository, "checkout", "-q", "-f", "HEAD")
    (repository / "a.txt").touch()
    assert commit_of(repository) == commit


def test_packed_branches_worktrees_and_commits_without_a_branch(repository: Path, tmp_path: Path) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    git(repository, "worktree", "add", "-q", str(tmp_path / "linked"))
    git(repository, "pack-refs", "--all")
    assert commit_of(repository) == commit_of(tmp_path / "linked") == commit
    (tmp_path / "linked" / "a.txt").write_text("two\n")
    assert commit_of(tmp_path / "linked") == f"{commit}-dirty"
    git(repository, "checkout", "-q", "--detach")
    assert commit_of(repository) == commit


def test_no_program_of_the_folder_is_run(repository: Path, tmp_path: Path) -> None:
    canary, program = tmp_path / "canary", tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {canary}\n")
    program.chmod(0o755)
    git(repository, "clone", "-q", str(repository), "module")
    commit = git(repository, "rev-parse", "HEAD")
    git(repository, "add", "module")
    git(repository, "commit", "-q", "-m", "with a module")
    commit = git(repository, "rev-parse", "HEAD")
    (repository / ".gitattributes").write_text("* filter=theirs diff=theirs\n")
    for place in (repository, repository / "module"):
        for key in (*PROGRAMS, "diff.theirs.textconv", "diff.theirs.command"):
            git(place, "config", key, str(program))
        git(place, "config", "core.hooksPath", str(tmp_path))
    (tmp_path / "post-index-change").symlink_to(program)
    (repository / "a.txt").write_text("two\n")
    (repository / "module" / "a.txt").write_text("two\n")
    assert commit_of(repository) == f"{commit}-dirty"
    assert not canary.exists()


@pytest.mark.parametrize(
    "head",
    [b"", b"\xff\xfe", b"ref: ", b"ref: refs/../../x", b"ref: refs/heads/none", b"x" * 10_000, b"ref: HEAD", None],
)
def test_what_is_no_repository_has_no_commit(tmp_path: Path, head: bytes | None) -> None:
    (tmp_path / ".git").mkdir()
    if head is not None:
        (tmp_path / ".git" / "HEAD").write_bytes(head)
    assert commit_of(tmp_path) is None


@pytest.mark.parametrize("text", ["gitdir: ", "gitdir: /nowhere", "nothing", "gitdir: a\0b", "gitdir: " + "x" * 9999])
def test_a_git_file_that_leads_nowhere(tmp_path: Path, text: str) -> None:
    (tmp_path / ".git").write_text(text)
    assert commit_of(tmp_path) is None


def test_pipes_and_references_in_circles_hold_nobody(repository: Path) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    (repository / ".git" / "index").unlink()
    os.mkfifo(repository / ".git" / "index")
    assert commit_of(repository) == commit
    branch = git(repository, "symbolic-ref", "HEAD")
    (repository / ".git" / branch).write_text(f"ref: {branch}\n")
    assert commit_of(repository) is None
    (repository / ".git" / branch).unlink()
    os.mkfifo(repository / ".git" / branch)
    assert commit_of(repository) is None
