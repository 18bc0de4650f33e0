"""One trial of `kcv tune` as a process: `kcv.train`, told what to do by its standard input.

The first line of standard input is the order, in JSON: `runs`, a list of what is trained, one after another; of each
`config`, the whole configuration, and `resume`, whether the run in its folder is continued. The input then stays open
as long as the coordinator lives. One line of JSON on standard output says how it ended: `status`, one of
`kcv.tuning.running.Status`, and `message`.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from typing import TYPE_CHECKING, Any

from kcv.common.backend import leave_out_optional
from kcv.errors import DataError, KcvError, OutputError, TrackingError, one_line

if TYPE_CHECKING:
    from kcv.tuning.running import Status

_STDIN = 0


def main() -> int:
    """Trains one trial; returns the exit code."""
    order = json.loads(_first_line())
    threading.Thread(target=_end_with_coordinator, daemon=True).start()
    _log_to_stderr()
    status, message = _train(order)
    sys.stdout.write(json.dumps({"status": status, "message": message}) + "\n")
    sys.stdout.flush()
    return 0 if status == "finished" else 2


def _train(order: dict[str, Any]) -> tuple[Status, str]:
    from kcv.config import Config
    from kcv.tasks.train import train
    from kcv.training.callbacks.control import Diverged
    from kcv.training.resume.stop_request import StopRequest

    stop = StopRequest()
    try:
        with stop.listening():
            for run in order["runs"]:
                stop.raise_if_requested()
                config = Config.from_dict(run["config"])
                # In environment.json: the command that continues this run by itself.
                sys.argv = ["kcv", "train", f"--resume={config.output_dir}"]
                train(config, resume=config.output_dir if run["resume"] else None)
    except Diverged as error:
        return "diverged", one_line(error)
    except (OutputError, DataError, TrackingError) as error:
        return "broken", one_line(error)
    except KcvError as error:
        return "refused", one_line(error)
    except KeyboardInterrupt:
        return "stopped", "stopped"
    except Exception as error:
        traceback.print_exc()
        return "died", f"{type(error).__name__}: {one_line(error)}"
    return "finished", ""


def _first_line() -> bytes:
    """Reads the first line of standard input, unbuffered."""
    line = bytearray()
    while not line.endswith(b"\n") and (read := os.read(_STDIN, 2**16)):
        line += read
    return bytes(line)


def _end_with_coordinator() -> None:
    """Waits for the end of standard input, and then stops this process as SIGTERM does: with a checkpoint."""
    while True:
        try:
            if not os.read(_STDIN, 1):
                break
        except OSError:
            break
    if os.name == "nt":  # there, os.kill would end it at once
        signal.raise_signal(signal.SIGTERM)
    else:
        os.kill(os.getpid(), signal.SIGTERM)


def _log_to_stderr() -> None:
    """Writes kcv's own messages to standard error, which is the log of the trial."""
    warnings.simplefilter("ignore")
    log = logging.getLogger("kcv")
    log.handlers[:] = [logging.StreamHandler()]
    log.setLevel(logging.INFO)
    log.propagate = False
    logging.getLogger().setLevel(logging.ERROR)


if __name__ == "__main__":
    leave_out_optional()
    sys.exit(main())
