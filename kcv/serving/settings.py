"""What an operator sets: addresses, who may ask, and the limits that keep memory and waiting bounded."""

from __future__ import annotations

import ipaddress
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from kcv.common import untrusted
from kcv.common.files import expand_user
from kcv.errors import UsageError

TOKEN_VARIABLE = "KCV_SERVE_TOKEN"
_SHORTEST_TOKEN, _MOST_TOKEN_BYTES = 16, 4096
_TOKEN = re.compile(r"[\x21-\x7e]+")

MB = 10**6


@dataclass(frozen=True)
class Settings:
    """The settings of a server.

    Attributes:
        host: the address to listen on.
        port: the port; 0 for any that is free.
        token: what clients must send as `Authorization: Bearer`; None if anybody may ask.
        max_bytes: the most bytes of a request's body.
        max_pixels: the most pixels of an image.
        queue_images: the most images that wait for a worker.
        queue_bytes: the most bytes of request bodies in memory.
        timeout: seconds after which a request that was read is given up.
        header_seconds: seconds that the headers of a request may take.
        body_seconds: seconds that its body may take, and that a client may leave an answer unread.
        idle_seconds: seconds that a connection without a request stays open.
        connections: the most connections at the same time.
        drain_seconds: seconds between SIGTERM, when the server says that it is not ready, and its last accepted
            connection.
        feedback: the folder that images are filed in under the class that people say; None if nobody may.
        feedback_bytes: the most bytes of images in it.
        log_requests: whether each request is logged: its code, its size and its time, and nothing else of it.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    max_bytes: int = 10 * MB
    max_pixels: int = 50_000_000
    queue_images: int = 512
    queue_bytes: int = 256 * MB
    timeout: float = 10.0
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    idle_seconds: int = 30
    connections: int = 1000
    drain_seconds: float = 5.0
    feedback: Path | None = None
    feedback_bytes: int = 1000 * MB
    log_requests: bool = False

    @property
    def is_local(self) -> bool:
        """Whether only processes of this machine can connect."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Returns whether an address can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, which may stand for any address
        return False


def find_token(token: str | None, token_file: str | Path | None, host: str, *, open_to_all: bool) -> str | None:
    """Returns the token that clients must send, from the flag, a file or the environment, in this order.

    Args:
        token: the token itself. Other users of the machine can read the command line.
        token_file: a file with the token; white space around it is ignored.
        host: the address to listen on.
        open_to_all: whether a server that others can reach may go without a token.

    Returns:
        None if there is no token.

    Raises:
        UsageError: the token is too short to be one, or others can reach the server and there is none.
    """
    if token is not None and token_file is not None:
        raise UsageError("--token and --token_file: give one of them.")
    origin = "--token"
    if token_file is not None:
        origin, token = f"--token_file={token_file}", _read_token(expand_user(token_file))
    elif token is None:
        origin, token = TOKEN_VARIABLE, os.environ.get(TOKEN_VARIABLE)
    if token is None or (origin == TOKEN_VARIABLE and not token):
        if not is_loopback(host) and not open_to_all:
            raise UsageError(
                f"--host={host} lets others connect: set a token (--token_file=FILE or {TOKEN_VARIABLE}), or --open to "
                "let anybody use the model."
            )
        return None
    if len(token) < _SHORTEST_TOKEN or not _TOKEN.fullmatch(token):
        raise UsageError(
            f"{origin}: a token has at least {_SHORTEST_TOKEN} letters, digits or signs, without spaces; make one with "
            "`openssl rand -hex 32`."
        )
    return token


def _read_token(path: Path) -> str:
    content = untrusted.read_bytes(path, _MOST_TOKEN_BYTES, UsageError)
    if os.name != "nt" and stat.S_IMODE(path.stat().st_mode) & 0o004:
        raise UsageError(f"--token_file={path}: every user of this machine can read it; chmod o-r {path}")
    return content.decode("utf-8", "replace").strip()
