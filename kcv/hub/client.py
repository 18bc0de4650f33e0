"""The client of the Hugging Face Hub, `huggingface_hub`, whose errors become one line each, and which prints nothing.

The hub is the one in HF_ENDPOINT, otherwise https://huggingface.co. The token is the one in HF_TOKEN, otherwise that of
`hf auth login`; the client sends it to the hub alone.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from kcv import __version__
from kcv.common.hub_reference import HubReference
from kcv.common.redaction import hide_credentials
from kcv.common.text import printable, shortened
from kcv.errors import ArtifactError, HubError, KcvError, causes, first_line

if TYPE_CHECKING:
    from huggingface_hub import HfApi

ENDPOINT: Final = "https://huggingface.co"
"""The hub, unless HF_ENDPOINT names another one."""

LIBRARY: Final = "kcv"
"""What the client tells the hub about the caller."""

_LOGIN: Final = "set HF_TOKEN, or log in: hf auth login"


def endpoint() -> str:
    """Returns the address of the hub, without a slash at its end."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or ENDPOINT


def open_client() -> HfApi:
    """Returns the client.

    Raises:
        HubError: `huggingface_hub` is not installed.
    """
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise HubError(f"hf:// needs {error.name or 'huggingface_hub'}: pip install 'kcv[hub]'.") from None
    return HfApi(endpoint=endpoint(), library_name=LIBRARY, library_version=__version__)


def require_token() -> None:
    """Raises HubError if there is no token."""
    from huggingface_hub import get_token

    if not get_token():
        raise HubError(f"the hub needs a token to write with: {_LOGIN}.")


@contextmanager
def asking(reference: HubReference, *, bars: bool = False) -> Iterator[None]:
    """Turns any error of the client in the block into one line; the client's own lines are not shown.

    Args:
        reference: what is asked for.
        bars: whether the client may draw its progress bars.

    Raises:
        ArtifactError: there is no such repository, commit or file, or it is not for this user.
        HubError: the hub cannot be reached, or refuses.
    """
    with _quiet(bars):
        try:
            yield
        except (KcvError, KeyboardInterrupt):
            raise
        except Exception as error:
            raise _told(error, reference) from error


@contextmanager
def _quiet(bars: bool) -> Iterator[None]:
    drawn: Any = importlib.import_module("huggingface_hub.utils")  # it does not export these to type checkers
    log = logging.getLogger("huggingface_hub")
    level, disabled = log.level, drawn.are_progress_bars_disabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of HF_HUB_DISABLE_PROGRESS_BARS, which decides, and of metadata in the card
        log.setLevel(logging.CRITICAL)
        if not (bars and sys.stderr.isatty()):
            drawn.disable_progress_bars()
        try:
            yield
        finally:
            log.setLevel(level)
            if not disabled:
                drawn.enable_progress_bars()


def _told(error: Exception, reference: HubReference) -> KcvError:
    from huggingface_hub import errors

    for cause in causes(error):  # the client wraps some of its errors
        if isinstance(cause, errors.GatedRepoError):
            page = f"{endpoint()}/{reference.repository}"
            return ArtifactError(f"{reference.text}: is for users who have agreed to its terms, at {page}; {_LOGIN}")
        if isinstance(cause, errors.RepositoryNotFoundError):
            return ArtifactError(f"{reference.text}: there is no such repository, or it is private: {_LOGIN}")
        if isinstance(cause, errors.RevisionNotFoundError):
            return ArtifactError(f"{reference.text}: has no such commit or branch")
        if isinstance(cause, errors.OfflineModeIsEnabled):
            return HubError(f"{reference.text}: HF_HUB_OFFLINE is set, so that nothing is fetched or sent.")
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if isinstance(status, int):
            return HubError(f"{reference.text}: {_of_status(status, _message(cause))}.")
    *_, innermost = causes(error)
    return HubError(f"{reference.text}: no proper answer from {endpoint()}: {_message(innermost)}.")


def _of_status(status: int, message: str) -> str:
    if status == 401:
        return f"the hub does not know the token; {_LOGIN}"
    if status == 403:
        return "the token does not give the right to do this; make one that may write, at /settings/tokens of the hub"
    if status in (409, 412):
        return "has changed meanwhile; nothing was pushed, try again"
    return f"{endpoint()} answers {status}: {message}"


def _message(error: BaseException) -> str:
    """Returns what an error says, without the secrets of signed URLs."""
    told = getattr(error, "server_message", None) or first_line(error)
    return printable(shortened(hide_credentials(" ".join(str(told).split())), 150)).rstrip(".")
