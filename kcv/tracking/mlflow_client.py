"""Imports MLflow's client quietly, without retries, and with limits on the responses of a server.

A server with an endless response would use up all memory.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import time
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from kcv.common.download import cache_dir
from kcv.common.files import home

if TYPE_CHECKING:
    from mlflow import MlflowClient

MOST_BYTES = 64 * 2**20
"""The most bytes of one response, unpacked; the longest that kcv requests, a metric's history, has some megabytes."""
MOST_SECONDS = 120.0
"""The most seconds for one response; the wait for its next byte has a separate limit."""


class EndlessAnswer(Exception):
    """A server's response is longer than any response of MLflow."""


def import_mlflow() -> type[MlflowClient]:
    """Imports MLflow without telemetry, retries or messages on the terminal."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # the default waits for minutes; kcv retries itself
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # stdout is reserved for results
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    with warnings.catch_warnings(), _with_home():
        warnings.simplefilter("ignore")  # warnings about MLflow's dependencies, which a user cannot fix
        from mlflow import MlflowClient

    _bound_answers()
    # Later warnings occur on another thread, where `catch_warnings` would undo changes of other threads to the filters.
    warnings.filterwarnings("ignore", module=r"(mlflow|sqlalchemy|alembic)\b")
    for name in ("mlflow", "alembic"):  # both report every table of a new database
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient


def _bound_answers() -> None:
    """Limits the responses that MLflow's client reads into memory; files that it streams to disk are not limited."""
    from mlflow.utils import request_utils

    adapter: Any = request_utils.TCPKeepAliveHTTPAdapter
    if getattr(adapter, "kcv_bounds", False):
        return

    class Bounding(adapter):  # type: ignore[misc]
        kcv_bounds = True

        def send(self, request: Any, stream: bool = False, *args: Any, **options: Any) -> Any:
            response = super().send(request, stream, *args, **options)
            if not stream:
                response.raw.stream = functools.partial(_bounded, response.raw, response.raw.stream)
            return response

    request_utils.TCPKeepAliveHTTPAdapter = Bounding  # type: ignore[misc]
    request_utils._cached_get_request_session.cache_clear()


def _bounded(raw: Any, stream: Any, amount: int = 2**16, decode_content: bool | None = None) -> Iterator[bytes]:
    """Yields a response in pieces, as urllib3 does, up to the limits."""
    received, end = 0, time.monotonic() + MOST_SECONDS
    for piece in stream(min(amount, 2**16), decode_content=decode_content):
        received += len(piece)
        if received > MOST_BYTES or time.monotonic() > end:
            raw.close()
            raise EndlessAnswer(f"its answer is longer than {MOST_BYTES >> 20} MB, or takes {MOST_SECONDS:.0f} s")
        yield piece


@contextlib.contextmanager
def _with_home() -> Iterator[None]:
    """Sets a home folder for a user without one while MLflow is imported, because the import needs it for paths."""
    if home() is not None:
        yield
        return
    name = "USERPROFILE" if os.name == "nt" else "HOME"
    before = os.environ.get(name)
    os.environ[name] = str(cache_dir())
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
