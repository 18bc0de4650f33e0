"""The command line: words -> verb -> checked arguments -> Fire calls the function -> the result is shown."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from kcv import __version__
from kcv.cli import help as helppage
from kcv.cli import render, terminal
from kcv.cli.parsing import parse
from kcv.cli.specification import find_verb
from kcv.cli.verbs import VERBS
from kcv.common.backend import leave_out_optional
from kcv.common.launch import Launch, SilentExit
from kcv.errors import ConfigError, KcvError, UsageError

_TO_SAY_SECONDS = 5.0
"""Seconds that a silent failed process waits, because torchrun ends all processes when the first one exits."""

_TO_DIE_SECONDS = 1.0

EXIT_BUG, EXIT_USER, EXIT_INTERRUPTED, EXIT_PIPE = 1, 2, 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: the words after the program name; by default those of the process.

    Returns:
        The exit code: 0 for success, 2 for an error that the user can fix, 130 for an interrupt, 1 for a bug.
    """
    if argv is None:  # a process of kcv's own: its child processes must not import modules from the working folder
        os.environ["PYTHONSAFEPATH"] = "1"
        leave_out_optional()
    code = _main(list(sys.argv[1:] if argv is None else argv))
    if argv is None and code:
        _leave_stuck_workers(code)
    return code


def _leave_stuck_workers(code: int) -> None:
    """Ends the process if Python would wait at exit for workers that cannot end, such as those on a lost disk."""
    multiprocessing = sys.modules.get("multiprocessing")
    if multiprocessing is None:
        return
    stuck = multiprocessing.active_children()
    for worker in stuck:
        worker.kill()
    for worker in stuck:
        worker.join(_TO_DIE_SECONDS)
    if multiprocessing.active_children():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _main(words: list[str]) -> int:
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # class names must not fail on a terminal's old encoding
    try:
        with _terminable():
            code = _run(words)
            terminal.flush()
            return code
    except KcvError as error:
        if _said_elsewhere(error):
            time.sleep(_TO_SAY_SECONDS)
        else:
            for line in str(error).splitlines():
                terminal.complain(line)
        return error.exit_code
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":
            terminal.complain("interrupted.")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        terminal.let_go()  # the reader of the output has exited
        return EXIT_PIPE
    except Exception:
        terminal.bug()
        return EXIT_BUG


def _said_elsewhere(error: KcvError) -> bool:
    """Returns whether another process reports the error: all processes of a machine read the same command line."""
    if isinstance(error, SilentExit):
        return True
    return isinstance(error, UsageError | ConfigError) and os.environ.get("LOCAL_RANK", "0") != "0"


@contextmanager
def _terminable() -> Iterator[None]:
    """Turns SIGTERM into an exception, so that temporary files are removed; `train` handles SIGTERM itself."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        terminal.show(
            helppage.page(find_verb(words[1])) if len(words) > 1 and words[0] == "help" else helppage.overview()
        )
        return 0
    if words[0] in ("--version", "-V"):
        terminal.show(f"kcv {__version__}")
        return 0
    verb = find_verb(words[0])
    if any(word in ("-h", "--help") for word in words[1:]):
        terminal.show(helppage.page(verb))
        return 0
    call = parse(verb, words[1:])
    if Launch.current().is_distributed and not VERBS[verb.name].together:
        raise UsageError(f"{verb.name} runs in one process; start it without torchrun.")
    for line in call.warnings:
        terminal.warn(line)
    terminal.show_own_only()
    import fire

    def run() -> int:
        return render.run(call)

    # All arguments are checked. Fire gets no words, because it would parse them again, and a class 7 as a number.
    return int(fire.Fire({verb.name: run}, command=[verb.name], name="kcv", serialize=lambda _: None))
