"""A process with Keras, torch and kcv loaded that forks a child for each command; see `warm`.

Started as `warm_server.py SOCKET`. Clients connect to the socket; a message is one command in JSON, sent with four open
files: standard input, output and error of the child, and where its process number and exit code are written. The server
ends when the last client has left. It runs no operation of torch itself: it must have no threads, which a fork loses.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import struct
import sys
import tempfile
import threading
import traceback
from pathlib import Path
from typing import Any, NoReturn

from sketches import sketch

LARGEST = 1 << 18
PRELOADED = (
    "kcv.cli", "kcv.tasks.train", "kcv.inference.recalibration", "kcv.inference.shards", "kcv.reporting.heat_map_files",
    "kcv.saliency.explainer", "kcv.saliency.trust", "kcv.exporting.quantization", "kcv.exporting.samples",
    "kcv.native.parallel", "kcv.inference.onnx_model", "matplotlib.backends.backend_agg", "matplotlib.figure", "fire",
    # What kcv imports on first use, which each child would otherwise import for itself.
    "torch._dynamo", "torch.distributed.tensor", "torchvision.transforms.v2.functional",
    "mlflow.tracking", "onnxruntime", "scipy.optimize", "sklearn.metrics", "sklearn.datasets", "torch.nn.parallel",
)  # fmt: skip


def main() -> None:
    """Listens, and forks until nobody is left."""
    for name in PRELOADED:
        importlib.import_module(name)
    draw()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system takes away the children that have ended
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(sys.argv[1] + ".new")
    listener.listen()
    os.rename(sys.argv[1] + ".new", sys.argv[1])
    selector, clients = selectors.DefaultSelector(), 0
    selector.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select(timeout=None if clients else 60):
            connection: Any = key.fileobj
            if connection is listener:
                selector.register(listener.accept()[0], selectors.EVENT_READ)
                clients += 1
                continue
            message, files, *_ = socket.recv_fds(connection, LARGEST, 4)
            if not message:
                selector.unregister(connection)
                connection.close()
                clients -= 1
                continue
            if os.fork() == 0:
                selector.close()
                attend(json.loads(message), files)
            for file in files:
                os.close(file)
        if not clients:
            os.unlink(sys.argv[1])
            return


def draw() -> None:
    """Draws something: the first figure of a process reads all fonts."""
    from kcv.reporting.plots import learning_curves

    with tempfile.TemporaryDirectory() as folder:
        learning_curves([{"epoch": 1, "loss": 1.0, "accuracy": 0.5}], Path(folder, "nothing.png"))


def attend(command: dict[str, Any], files: list[int]) -> NoReturn:
    """Forks the child, and waits for it: only a parent is told how a process ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    *streams, reply = files
    child = os.fork()
    if child == 0:
        os.close(reply)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        os.closerange(3, 256)
        run(command)
    os.write(reply, f"{child}\n".encode())
    for stream in streams:
        os.close(stream)
    _, status = os.waitpid(child, 0)
    os.write(reply, f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def give_up_privileges() -> None:
    """Gives up all that lets root pass over permissions: the system then refuses it what it would refuse anybody.

    Another user could not read an interpreter that lies in root's home.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("Ii", 0x20080522, 0)  # the third version, of this process
    nothing = bytes(24)  # no capability: effective, permitted and inheritable, in two words each
    if libc.capset(header, nothing):
        raise OSError(ctypes.get_errno(), "capset")


def run(command: dict[str, Any]) -> NoReturn:
    """Runs a module or a script as `python -m MODULE WORD...` or `python SCRIPT WORD...` would, and ends."""
    os.environ.clear()
    os.environ.update(command["environment"])
    os.chdir(command["folder"])
    if not command["drawn"]:
        sketch()
    if command["plain_rights"] and os.geteuid() == 0:
        give_up_privileges()
    sys.argv = [command["program"], *command["words"]]
    code: Any = 0
    try:
        if command["program"].endswith(".py"):
            runpy.run_path(command["program"], run_name="__main__")
        else:
            runpy.run_module(command["program"], run_name="__main__", alter_sys=True)
    except SystemExit as error:
        code = error.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
            code = 1
    except KeyboardInterrupt:
        traceback.print_exc()
        code = 130
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            code = code or 120
    os._exit(code or 0)


if __name__ == "__main__":
    main()
