"""The connection to a store: who asks, what may be tried again, and what an error means.

Credentials, profile, region and endpoint are found as every tool for S3 finds them: from the environment, the files in
`~/.aws`, or the role of the machine (botocore's chain). Without any, requests are not signed, as for public buckets.
Each request is tried `TRIES` times; botocore's own tries, which do not know of bodies that break off, are switched off.
"""

from __future__ import annotations

import functools
import logging
import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NoReturn, TypeVar

from kcv.common.redaction import hide_credentials
from kcv.common.text import printable, shortened
from kcv.errors import DataError, ImageError, KcvError, UsageError, first_line
from kcv.stores.answers import BoundedSession, Broken
from kcv.stores.location import Location

_log = logging.getLogger(__name__)

T = TypeVar("T")

TRIES: Final = 6
FIRST_WAIT: Final = 0.5
"""Seconds before the second try; each later wait is twice as long, and up to half of it is left to chance."""
MOST_WAIT: Final = 20.0

SILENCE: Final = 30.0
"""Seconds without a byte after which a try has failed."""
_CONNECT: Final = 10.0
CONNECTIONS: Final = 32
"""Connections of one process at a time."""

_AGAIN: Final = frozenset({
    "408", "429", "500", "502", "503", "504", "InternalError", "InternalFailure", "OperationAborted",
    "RequestTimeout", "RequestTimeoutException", "ServiceUnavailable", "SlowDown", "Throttling",
    "ThrottlingException", "TooManyRequests", "TooManyRequestsException",
})  # fmt: skip
"""Codes of errors that pass."""
REFUSED: Final = frozenset({"403", "AccessDenied", "AllAccessDisabled", "Forbidden", "UnauthorizedAccess"})
_CREDENTIALS: Final = frozenset({
    "401", "ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch",
    "TokenRefreshRequired",
})  # fmt: skip
_ELSEWHERE: Final = frozenset({
    "301", "307", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect",
    "TemporaryRedirect",
})  # fmt: skip
MISSING: Final = frozenset({"404", "NoSuchKey", "NotFound"})
CHANGED: Final = frozenset({"412", "416", "InvalidRange", "PreconditionFailed"})


@dataclass(frozen=True)
class Client:
    """A connection to a store.

    Attributes:
        calls: botocore's client.
        signed: whether requests carry credentials.
    """

    calls: Any
    signed: bool


_lock = threading.Lock()
_chance = random.SystemRandom()  # the global generator gives a training its first weights


def client() -> Client:
    """Returns the connection of this process; threads share it.

    Raises:
        UsageError: botocore is not installed, or the configuration of AWS cannot be used.
    """
    with _lock:
        return _client(os.getpid())


@functools.lru_cache(maxsize=1)
def _client(process: int) -> Client:
    """Makes the connection; a forked process, which must not share sockets, makes one of its own."""
    try:
        import botocore.session
        from botocore import UNSIGNED
        from botocore.config import Config
    except ImportError:
        raise UsageError("s3:// needs a package that is not installed: pip install 'kcv[s3]'") from None
    try:
        session = botocore.session.get_session()
        signed = not _told_not_to_sign() and session.get_credentials() is not None
        calls = session.create_client(
            "s3",
            region_name=os.environ.get("AWS_REGION"),  # which botocore does not read; None: as it finds it
            config=Config(
                connect_timeout=_CONNECT,
                read_timeout=SILENCE,
                max_pool_connections=CONNECTIONS,
                retries={"total_max_attempts": 1, "mode": "standard"},
                # Stores other than Amazon's do not know the checksums that botocore sends otherwise.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                user_agent_extra="kcv",
                **({} if signed else {"signature_version": UNSIGNED}),
            ),
        )
        # There is no public way to bound what is read of an answer.
        endpoint = calls._endpoint
        endpoint.http_session = BoundedSession(endpoint.http_session)
    except Exception as error:  # a profile that is not there, a file that is no configuration, a URL that is none
        reason = hide_credentials(first_line(error))
        raise UsageError(f"the configuration of AWS cannot be used: {printable(shortened(reason))}") from None
    return Client(calls, signed)


def _told_not_to_sign() -> bool:
    return os.environ.get("AWS_NO_SIGN_REQUEST", "").lower() in ("1", "true", "yes", "on")


def retried(place: Location, work: Callable[[], T], error: type[KcvError] = DataError, doing: str = "read") -> T:
    """Returns the result of some work with the store; what may pass is tried again.

    Args:
        place: the object, for messages.
        work: makes the request; called up to `TRIES` times.
        error: the class of the error that is raised.
        doing: what is done with the object, for messages: `read`, `listed` or `written`.

    Raises:
        KcvError: of class `error`; the store refuses, or no try succeeds.
    """
    for number in range(1, TRIES + 1):
        try:
            return work()
        except KcvError:
            raise
        except Exception as caught:
            leaving = not threading.main_thread().is_alive()  # it waits for other threads
            if not may_pass(caught) or number == TRIES or leaving:
                refuse(place, caught, error, doing, number)
            wait = min(MOST_WAIT, FIRST_WAIT * 2 ** (number - 1)) * _chance.uniform(0.5, 1.0)
            level = logging.INFO if number < TRIES // 2 else logging.WARNING
            _log.log(level, "%s: %s; trying again in %.1f s", place, _reason(caught), wait)
            time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def may_pass(error: Exception) -> bool:
    """Returns whether a request that ended in an error may succeed if it is sent again."""
    from botocore import exceptions
    from botocore.parsers import ResponseParserError

    if isinstance(error, exceptions.ClientError):
        return code_of(error) in _AGAIN or str(_status(error)) in _AGAIN
    if isinstance(error, exceptions.SSLError | exceptions.ProxyConnectionError):
        return False
    lost = (exceptions.ConnectionError, exceptions.HTTPClientError, ResponseParserError, Broken)
    return isinstance(error, lost)


def code_of(error: Exception) -> str:
    """Returns the code of a store's error, such as `NoSuchKey`; that of HTTP where it has none."""
    answer = getattr(error, "response", None)
    told = answer.get("Error", {}).get("Code") if isinstance(answer, dict) else None
    return str(told) if told else str(_status(error))


def _status(error: Exception) -> int:
    answer = getattr(error, "response", None)
    told = answer.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(answer, dict) else None
    return told if isinstance(told, int) else 0


def refuse(place: Location, caught: Exception, error: type[KcvError], doing: str, tries: int = 1) -> NoReturn:
    """Raises the error of a request as one line.

    An ImageError is raised only for what is wrong with this object: a store that is out of reach, or credentials that
    have expired, must not count as a million bad images.
    """
    code = code_of(caught)
    bucket = f"s3://{place.bucket}"
    if code in MISSING:
        raise error(f"{place}: there is no such object.") from None
    if code in CHANGED:
        raise error(f"{place}: has changed since it was listed.") from None
    if code == "InvalidObjectState":
        raise error(f"{place}: is archived; restore it first.") from None
    if code in REFUSED:
        way = "these credentials have no right to it"
        if _told_not_to_sign():
            way = "it is not public, and AWS_NO_SIGN_REQUEST is set"
        elif not client().signed:
            way = ("no credentials were found, and it is not public; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
                   "AWS_SECRET_ACCESS_KEY")  # fmt: skip
        raise error(f"{place}: may not be {doing}: {way} ({printable(code)}).") from None
    error = DataError if issubclass(error, ImageError) else error
    if code == "NoSuchBucket":
        raise error(f"{bucket}: there is no such bucket{_at()}.") from None
    if code in _CREDENTIALS:
        raise error(f"{place}: the store does not accept the credentials ({printable(code)}).") from None
    if code in _ELSEWHERE:
        raise error(f"{bucket}: is in another region; set AWS_REGION to it ({printable(code)}).") from None
    after = f" after {tries} tries" if tries > 1 else ""
    raise error(f"{place}: cannot be {doing}{after} ({_reason(caught)}).") from None


def _reason(caught: Exception) -> str:
    answer = getattr(caught, "response", None)
    if isinstance(answer, dict):
        told = f"{code_of(caught)}: {answer.get('Error', {}).get('Message') or 'without a reason'}"
    else:
        told = first_line(caught)
    return printable(shortened(hide_credentials(told)))


def _at() -> str:
    """Returns where the store is, unless it is Amazon's."""
    endpoint = str(client().calls.meta.endpoint_url)
    return "" if "amazonaws.com" in endpoint else f" at {shortened(hide_credentials(endpoint))}"
