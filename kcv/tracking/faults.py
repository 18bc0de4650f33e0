"""What an error of MLflow's client says about the store: that it does not answer, or that it refuses."""

from __future__ import annotations

from collections.abc import Iterator

from kcv.common.redaction import hide_credentials
from kcv.errors import one_line
from kcv.tracking.answers import EndlessAnswer

_MAY_CHANGE = (401, 403, 407, 408, 429)
"""Refusals that another time, or other credentials, may end."""


class NoAnswer(Exception):
    """The store cannot be reached or used now; it may be later."""


class Refused(Exception):
    """The store has said no.

    Attributes:
        of_entry: to what it was sent, and will do so again; else it may take the same another time.
    """

    def __init__(self, message: str, *, of_entry: bool) -> None:
        super().__init__(message)
        self.of_entry = of_entry


def judge(error: Exception, *, remote: bool) -> NoAnswer | Refused:
    """Returns what an error means.

    Args:
        error: of MLflow's client.
        remote: it was an MLflow server that was asked, not a database.
    """
    import requests
    from mlflow.exceptions import MlflowException, RestException

    http = requests.exceptions
    broken_off = (http.ConnectionError, http.Timeout, http.ChunkedEncodingError, ConnectionError, TimeoutError)
    text = told(error)
    for cause in _causes(error):
        if isinstance(cause, EndlessAnswer):
            return Refused(str(cause), of_entry=False)
        if isinstance(cause, http.SSLError) and "CERTIFICATE" in str(cause):
            return Refused(text, of_entry=False)
        if isinstance(cause, http.HTTPError) and cause.response is not None:
            return _of_status(cause.response.status_code, text)
        if isinstance(cause, http.RetryError):
            return NoAnswer("the server is not able to answer")
        if isinstance(cause, broken_off):
            return NoAnswer("no answer from the server")
    if isinstance(error, RestException) or (isinstance(error, MlflowException) and not remote):
        return _of_status(int(error.get_http_status_code()), text)  # type: ignore[no-untyped-call]
    if isinstance(error, MlflowException):
        return Refused(text, of_entry=False)  # an answer, but not in MLflow's words: a proxy, or another server
    if remote or isinstance(error, (ImportError, TypeError, ValueError)):
        return Refused(text, of_entry=True)  # nothing that the store does can change it
    return NoAnswer(text)


def told(error: BaseException) -> str:
    """Returns what an error says, in one line without credentials."""
    text = hide_credentials(one_line(error))
    return (text if len(text) <= 300 else f"{text[:297]}...").rstrip(".")


def _of_status(status: int, text: str) -> NoAnswer | Refused:
    if status >= 500 and status != 501:
        return NoAnswer(text)
    return Refused(text, of_entry=status not in _MAY_CHANGE)


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__
