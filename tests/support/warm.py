"""Processes that need not import Keras: children forked from one that has it loaded, in 0.1 s where a start takes 6.

A child has its own folder, environment, standard streams and process number; signals and exit codes are a process's.
What it cannot show is a start itself: how long it takes and what it imports. Tests of that start `sys.executable`.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from workers import locked

Finished = subprocess.CompletedProcess[str]

PATIENCE = 300.0
"""Seconds, of a child: a machine may be busy; one that takes longer hangs."""


class Child:
    """A running command; after `wait` or `communicate`, a finished one.

    Attributes:
        args: the program and its words.
        pid: the process number.
        returncode: None while it runs; negative for a signal.
    """

    def __init__(self, args: list[str], reply: int, out: int, err: int) -> None:
        self.args = args
        self.returncode: int | None = None
        self._files = {reply, out, err}
        self._reply, self._out, self._err = reply, out, err
        self.pid = int(self._line())

    def __del__(self) -> None:
        for file in self._files:
            os.close(file)

    def poll(self, timeout: float = 0) -> int | None:
        """Returns the exit code, or None where it still runs after so many seconds."""
        if self.returncode is None and select.select([self._reply], [], [], timeout)[0]:
            self.returncode = int(self._line() or -signal.SIGKILL)
        return self.returncode

    def wait(self, timeout: float = PATIENCE) -> int:
        """Waits for its end. Raises TimeoutExpired, after killing it, where that takes too long."""
        if self.poll(timeout) is None:
            self.kill()
            self.poll(10)
            raise subprocess.TimeoutExpired(self.args, timeout, self.output, self.errors)
        assert self.returncode is not None
        return self.returncode

    def communicate(self, timeout: float = PATIENCE) -> tuple[str, str]:
        """Waits for its end, and returns what it wrote to standard output and error."""
        self.wait(timeout)
        return self.output, self.errors

    @property
    def output(self) -> str:
        """What it has written to standard output so far."""
        return _content(self._out)

    @property
    def errors(self) -> str:
        """What it has written to standard error so far."""
        return _content(self._err)

    def send_signal(self, number: signal.Signals) -> None:
        """Sends a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Sends SIGKILL, unless it has ended."""
        self.send_signal(signal.SIGKILL)

    def finished(self, timeout: float = PATIENCE) -> Finished:
        """Waits for its end, and returns it as `subprocess.run` would."""
        code = self.wait(timeout)
        return subprocess.CompletedProcess(self.args, code, self.output, self.errors)

    def _line(self) -> bytes:
        line = b""
        while not line.endswith(b"\n") and (byte := os.read(self._reply, 1)):
            line += byte
        return line


class WarmPython:
    """Starts commands from a process that has Keras loaded; all workers of a test run share one.

    Args:
        folder: shared by the workers; names the server's socket, and holds the lock on its start.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._connection: socket.socket | None = None

    def start(
        self,
        program: str,
        words: Sequence[object],
        *,
        folder: Path,
        env: Mapping[str, str] | None = None,
        stdin: int | None = None,
        merge: bool = False,
        drawn: bool = False,
        plain_rights: bool = False,
    ) -> Child:
        """Starts a command.

        Args:
            program: a module, as after `python -m`, or the path of a script.
            words: its arguments.
            folder: its working folder.
            env: variables on top of the environment of the tests.
            stdin: an open file; by default nothing can be read.
            merge: whether standard error goes where standard output goes.
            drawn: whether figures are drawn; else their files hold one pixel.
            plain_rights: whether files that are closed are so for it, too, where root runs the tests.
        """
        words = [str(word) for word in words]
        out = os.memfd_create("output")
        err = os.dup(out) if merge else os.memfd_create("errors")
        environment = {**os.environ, **(env or {})}
        message = {
            "program": program,
            "words": words,
            "folder": str(folder),
            "environment": environment,
            "drawn": drawn,
            "plain_rights": plain_rights,
        }
        reading, writing = os.pipe()
        with ExitStack() as stack:
            stack.callback(os.close, writing)
            if stdin is None:
                stdin = os.open(os.devnull, os.O_RDONLY)
                stack.callback(os.close, stdin)
            files = [stdin, out, err, writing]
            socket.send_fds(self._connected(), [json.dumps(message).encode()], files)
            return Child([program, *words], reading, out, err)

    def together(
        self,
        program: str,
        words: Sequence[object],
        *,
        folder: Path,
        processes: int = 2,
        env: Mapping[str, str] | None = None,
    ) -> list[Finished]:
        """Runs one command by several processes that share its work, as torchrun would, and returns them finished.

        As torchrun does, it hosts their store, and ends the others when one has failed; it starts nothing again.
        """
        from torch.distributed import TCPStore

        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        children = [
            self.start(program, words, folder=folder, env={**(env or {}), **of_rank})
            for of_rank in _rank_environments(store.port, processes)
        ]
        waiting = set(children)
        while waiting:
            for child in [child for child in waiting if child.poll(0.05) is not None]:
                waiting.remove(child)
                if child.returncode:
                    for other in waiting:
                        other.send_signal(signal.SIGTERM)
        return [child.finished() for child in children]

    def close(self) -> None:
        """Leaves the server, which ends with its last client."""
        if self._connection is not None:
            self._connection.close()

    def _connected(self) -> socket.socket:
        if self._connection is None:
            with locked(self._folder / "warm.lock"):  # one worker starts the server, the others find it
                self._connection = self._connect()
        return self._connection

    def _connect(self) -> socket.socket:
        # Not in the folder itself: the path of a socket may have no more than 107 bytes.
        path = os.path.join(tempfile.gettempdir(), f"kcv-{hashlib.sha1(bytes(self._folder)).hexdigest()[:12]}.socket")
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        server: int | None = None
        for _ in range(int(PATIENCE / 0.05)):
            try:
                connection.connect(path)
                return connection
            except (FileNotFoundError, ConnectionRefusedError):
                pass
            if server is None:
                server = self._serve(path)
            elif (ended := os.waitpid(server, os.WNOHANG))[0]:
                raise RuntimeError(f"the warm process ended with {os.waitstatus_to_exitcode(ended[1])}")
            time.sleep(0.05)
        raise RuntimeError("the warm process does not answer")

    def _serve(self, path: str) -> int:
        script = Path(__file__).with_name("warm_server.py")
        root = str(script.parents[2])
        environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
        # A test may have run the command line in its own process, and left the variable that hides the script's folder.
        for name in ("PYTEST_CURRENT_TEST", "PYTEST_XDIST_WORKER", "PYTHONSAFEPATH"):
            environment.pop(name, None)
        nothing = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (0, 1)]
        command = [sys.executable, str(script), path]
        return os.posix_spawn(command[0], command, environment, file_actions=nothing, setsid=True)


def _content(file: int) -> str:
    return os.pread(file, os.fstat(file).st_size, 0).decode(errors="replace")


def _rank_environments(port: int, processes: int) -> list[dict[str, str]]:
    """Returns what torchrun tells the processes of a group on one machine."""
    shared = {
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": f"test-{port}-{time.monotonic_ns()}",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "OMP_NUM_THREADS": "1",
    }
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]
