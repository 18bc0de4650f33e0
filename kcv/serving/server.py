"""A server from its start to its end: the socket, signals, reloading, and the last answers before it stops."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn

from kcv.common.text import printable, shortened
from kcv.errors import OutputError, UsageError, first_line
from kcv.serving.app import make_app
from kcv.serving.metrics import metrics
from kcv.serving.model import Served, describe
from kcv.serving.protocol import bounded_protocol
from kcv.serving.service import Service
from kcv.serving.settings import Settings

if TYPE_CHECKING:
    from kcv.serving.feedback import Feedback

_log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_BACKLOG = 2048
_MOST_HEADER_BYTES = 64 * 1024
_SWITCH_SECONDS = 0.0005
"""How long a worker may keep the interpreter while the event loop waits for it. The loop gives it away with each write
to a socket, and Python's own 5 ms make refusals slow; decision 022 has the figures."""


def listen(host: str, port: int) -> socket.socket:
    """Opens the socket before anything slow is done, so that a port in use is told at once.

    Raises:
        UsageError: there is no such address on this machine.
        OutputError: the port is in use, or not allowed.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except (socket.gaierror, UnicodeError) as error:
        # UnicodeError: a label that is empty, or longer than the 63 bytes of the domain name system.
        reason = error.strerror if isinstance(error, socket.gaierror) else None
        raise UsageError(f"--host={printable(shortened(host))}: {reason or 'is no name of a host'}") from None
    except (OSError, OverflowError) as error:
        raise OutputError(f"cannot listen on {host}, port {port}: {first_line(error)}") from None


def make_server(
    models: list[Served],
    settings: Settings,
    *,
    certfile: Path | None = None,
    keyfile: Path | None = None,
    started: Callable[[str], object] | None = None,
) -> Server:
    """Returns a server that is ready to run.

    Args:
        models: the models.
        settings: the limits.
        certfile: the certificate for TLS, PEM; None for plain HTTP.
        keyfile: its key; None if it is in the same file.
        started: called with the server's URL once it is ready.

    Raises:
        UsageError: certificate and key cannot be used, or the classes cannot be folders for feedback.
        OutputError: the folder for feedback cannot be written.
    """
    protocol = bounded_protocol(
        header_seconds=settings.header_seconds, unread_seconds=settings.body_seconds, most=settings.connections
    )
    config = uvicorn.Config(
        _not_ready,
        http=protocol,
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=settings.idle_seconds,
        timeout_graceful_shutdown=int(settings.timeout + settings.body_seconds) + 1,
        h11_max_incomplete_event_size=_MOST_HEADER_BYTES,
        interface="asgi3",
    )
    _quiet()
    config.load()
    config.ssl = None if certfile is None else _context(certfile, keyfile)
    return Server(config, models, settings, started, _feedback(models, settings))


def _feedback(models: list[Served], settings: Settings) -> Feedback | None:
    if settings.feedback is None:
        return None
    from kcv.serving.feedback import Feedback  # reads folders as data sets do, which few servers need

    return Feedback(
        settings.feedback,
        {served.name: served.version.class_names for served in models},
        most_bytes=settings.feedback_bytes,
        max_pixels=settings.max_pixels,
    )


def _context(certfile: Path, keyfile: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certfile, keyfile, password="")  # never asks for one on a terminal
    except (OSError, ValueError) as error:  # SSLError is an OSError
        raise UsageError(f"--certfile, --keyfile: cannot be used: {first_line(error)}") from None
    return context


async def _not_ready(scope: Any, receive: Any, send: Any) -> None:
    """Stands for the application, which is made in the event loop."""
    raise RuntimeError("the server has not started")


class Server(uvicorn.Server):
    """uvicorn with kcv's signals: SIGTERM drains, SIGHUP reloads, a second signal ends at once.

    Made by `make_server`.

    Attributes:
        service: the models and the workers; None until it has started.
        loop: the event loop; there is none until it has started.
    """

    loop: asyncio.AbstractEventLoop

    def __init__(
        self,
        config: uvicorn.Config,
        models: list[Served],
        settings: Settings,
        started: Callable[[str], object] | None,
        feedback: Feedback | None,
    ) -> None:
        super().__init__(config)
        self._models, self._settings, self._tell, self._feedback = models, settings, started, feedback
        self.service: Service | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    def answer(self, opened: socket.socket) -> int:
        """Serves on a socket until the process is told to stop (SIGTERM, SIGINT), or `stop` is called.

        Returns:
            The number of requests that were answered.
        """
        before = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_SECONDS)
        try:
            asyncio.run(self.serve(sockets=[opened]))
        finally:
            sys.setswitchinterval(before)
        return self.server_state.total_requests

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Makes the service in the event loop, and begins to accept connections."""
        self.loop = asyncio.get_running_loop()
        service = self.service = Service(self._models, self._settings, metrics(), self._feedback)
        self.config.loaded_app = make_app(service)
        await super().startup(sockets)
        self._keep(service.watch_files(_LOOK_SECONDS))
        for served in self._models:
            _log.info("%s", describe(served.version))
        if self._tell is not None and sockets:
            scheme = "https" if self.config.ssl else "http"
            host, port = sockets[0].getsockname()[:2]
            self._tell(printable(f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends after the last answer."""
        await super().shutdown(sockets)
        for task in self._tasks:
            task.cancel()
        if self.service is not None:
            self.service.close(0 if self.force_exit else self._settings.timeout)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handles signals in the event loop, where it is that of the main thread."""
        loop = asyncio.get_running_loop()
        handlers: dict[int, Callable[[], None]] = {signal.SIGINT: self._interrupt, signal.SIGTERM: self._drain}
        if hasattr(signal, "SIGHUP"):
            handlers[signal.SIGHUP] = self._reload
        before = {}
        for number, handler in handlers.items():
            with contextlib.suppress(ValueError, RuntimeError):  # another thread
                before[number] = signal.getsignal(number)
                _listen(loop, number, handler)
        try:
            yield
        finally:
            for number, handler_before in before.items():
                with contextlib.suppress(ValueError, RuntimeError):
                    with contextlib.suppress(NotImplementedError):
                        loop.remove_signal_handler(number)
                    signal.signal(number, handler_before)

    def _interrupt(self) -> None:
        """Ctrl+C: no machinery is to be told, so nothing waits but the answers that are under way."""
        self.stop(0)

    def _drain(self) -> None:
        self.stop(self._settings.drain_seconds)

    def stop(self, seconds: float) -> None:
        """Says that the server is not ready, and ends after the last answer; at once if it is called again.

        Called in the thread of the event loop.

        Args:
            seconds: how long connections are still accepted.
        """
        if self.service is None or not self.service.is_ready:
            self.should_exit = self.force_exit = True
            return
        self.service.is_ready = False
        _log.info("stopping: no longer ready%s", f"; accepts connections for {seconds:g} s more" if seconds else "")
        asyncio.get_running_loop().call_later(seconds, self._exit)

    def _exit(self) -> None:
        self.should_exit = True

    def _reload(self) -> None:
        if self.service is not None:
            for served in self._models:
                self._keep(self.service.reload(served.name))

    def _keep(self, work: Any) -> None:
        """Runs a coroutine beside the server, and keeps it from being collected."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _listen(loop: asyncio.AbstractEventLoop, number: int, handler: Callable[[], None]) -> None:
    """Calls a handler in the event loop when a signal comes."""
    try:
        loop.add_signal_handler(number, handler)
    except NotImplementedError:  # Windows
        signal.signal(number, lambda number, frame: loop.call_soon_threadsafe(handler))


def _quiet() -> None:
    """Silences uvicorn, whose messages repeat parts of requests; kcv tells what an operator needs."""
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
