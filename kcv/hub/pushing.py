"""Writes files to a repository of the Hugging Face Hub, in one commit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kcv.common.hub_reference import HubReference, is_commit
from kcv.errors import HubError, UsageError
from kcv.hub.client import asking, open_client, require_token

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_SECONDS = 30.0  # for an answer without files


def require_writable(reference: HubReference, *, private: bool = False) -> None:
    """Raises what a push would, as far as it is known before there are files.

    Args:
        reference: the repository; it need not exist.
        private: whether it must be private if it exists.

    Raises:
        UsageError: it is public.
        HubError: there is no token, the hub does not know it, or cannot be reached.
    """
    client = open_client()
    with asking(reference):
        require_token()
        found = _look(client, reference)
        if found is not None:
            _require_private(found, reference, private)


def push_files(
    files: Mapping[str, Path],
    reference: HubReference,
    *,
    message: str,
    gone: Iterable[str] = (),
    private: bool = False,
    branch: str | None = None,
    bars: bool = False,
) -> HubReference:
    """Writes files to a repository in one commit; makes the repository, and its branch, if there is none.

    A commit of somebody else between the look at the repository and the end of the upload is not overwritten: the hub
    then refuses the whole commit.

    Args:
        files: the files by their names in the repository.
        reference: the repository.
        message: subject of the commit.
        gone: names of files that the repository must not keep.
        private: make the repository private; one that is there already must be private.
        branch: the branch; None for `main`.
        bars: whether to show progress bars on a terminal.

    Returns:
        The reference with the new commit; with the newest one if the repository has these files already.

    Raises:
        UsageError: the repository is public, and `private` was asked for.
        ArtifactError: there is no such owner, or the repository is not for this user.
        HubError: there is no token, the hub cannot be reached, or it refuses; nothing is written then.
    """
    client = open_client()
    with asking(reference, bars=bars):
        found = _repository(client, reference, private=private)
        if branch is not None:
            found = _branch(client, reference, branch)
        made = client.create_commit(
            reference.repository,
            operations=_operations(files, [name for name in gone if name in _names(found)]),
            commit_message=message,
            revision=branch,
            parent_commit=found.sha,
        )
    if not is_commit(made.oid):
        raise HubError(f"{reference.text}: the hub does not say which commit it made.")
    return reference.at(made.oid)


def _repository(client: HfApi, reference: HubReference, *, private: bool) -> Any:
    """Returns what the hub tells about a repository, which is made if there is none.

    It is asked for first, because many tokens may write to a repository, but make none.
    """
    found = _look(client, reference)
    if found is None:
        client.create_repo(reference.repository, private=private or None)
        found = client.model_info(reference.repository, timeout=_SECONDS)
    _require_private(found, reference, private)
    return found


def _look(client: HfApi, reference: HubReference) -> Any:
    """Returns what the hub tells about a repository; None if there is none for this user."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        return client.model_info(reference.repository, timeout=_SECONDS)
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        return None


def _require_private(found: Any, reference: HubReference, private: bool) -> None:
    if private and found.private is not True:
        raise UsageError(
            f"--private: {reference.text} is public, and the files would be, too; make it private in its settings."
        )


def _branch(client: HfApi, reference: HubReference, branch: str) -> Any:
    """Returns what the hub tells about a branch, which is made from `main` if there is none."""
    from huggingface_hub.errors import RevisionNotFoundError

    try:
        return client.model_info(reference.repository, revision=branch, timeout=_SECONDS)
    except RevisionNotFoundError:
        client.create_branch(reference.repository, branch=branch)
        return client.model_info(reference.repository, revision=branch, timeout=_SECONDS)


def _operations(files: Mapping[str, Path], gone: Iterable[str]) -> list[Any]:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    added = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(path)) for name, path in files.items()]
    return [*added, *(CommitOperationDelete(path_in_repo=name) for name in gone)]


def _names(found: Any) -> set[str]:
    return {each.rfilename for each in found.siblings or ()}
