"""Records how much CPU and memory a run uses, by a thread beside the training.

The names are those of MLflow, whose page shows them under "System metrics".
Source: MLflow documentation, "System Metrics".
"""

from __future__ import annotations

import importlib.util
import logging
import threading
import time
from types import TracebackType
from typing import Any

from kcv.errors import TrackingError, first_line
from kcv.tracking.tracker import Tracker

_log = logging.getLogger(__name__)

SECONDS = 10.0
"""Seconds between two samples, as in MLflow."""
_MB = 1e6


def require_psutil() -> None:
    """Checks that the package for it is installed.

    Raises:
        TrackingError: it is not.
    """
    if importlib.util.find_spec("psutil") is None:
        raise TrackingError("tracking.system_metrics: needs psutil: pip install 'kcv[system-metrics]'.")


class SystemMetrics:
    """Logs samples while its block runs; each has the seconds since the run began as its step.

    Args:
        tracker: gets the samples.
        offset: seconds between the beginning of the run and now; more than 0 when it is resumed.
    """

    def __init__(self, tracker: Tracker, offset: float = 0.0) -> None:
        self._tracker = tracker
        self._began = time.monotonic() - offset
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="kcv-system-metrics", daemon=True)

    def __enter__(self) -> SystemMetrics:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join(SECONDS)

    def _work(self) -> None:
        try:
            import psutil

            process = psutil.Process()
            psutil.cpu_percent(), process.cpu_percent()  # both count from the call before
            is_last = False
            while not is_last:
                is_last = self._ended.wait(SECONDS)
                self._tracker.log_metrics(_sample(psutil, process), round(time.monotonic() - self._began))
        except Exception as error:  # measuring must not look like an error of the training
            _log.warning("tracking.system_metrics: stopped, the training goes on: %s", first_line(error))


def _sample(psutil: Any, process: Any) -> dict[str, float]:
    memory = psutil.virtual_memory()
    return {
        "system/cpu_utilization_percentage": float(psutil.cpu_percent()),
        "system/system_memory_usage_megabytes": (memory.total - memory.available) / _MB,
        "system/system_memory_usage_percentage": float(memory.percent),
        "system/process_cpu_utilization_percentage": float(process.cpu_percent()),
        "system/process_memory_usage_megabytes": process.memory_info().rss / _MB,
    }
