"""Decides which log messages and warnings are shown on the terminal, and how."""

from __future__ import annotations

import logging
import sys
import warnings

from kcv.cli import console
from kcv.common.launch import Launch


class _Plain(logging.Formatter):
    """Escapes control characters in the names of files and classes, and cuts lines that are very long."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(map(console.message, super().format(record).split("\n")))


def show_own_only() -> None:
    """Shows kcv's own messages on stderr without decoration, and hides the warnings of other packages."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Plain("%(message)s"))
    log = logging.getLogger("kcv")
    log.handlers[:] = [handler]
    # Of several processes, the main process alone reports.
    log.setLevel(logging.INFO if Launch.current().is_main_process else logging.CRITICAL)
    log.propagate = False
    logging.getLogger().setLevel(logging.ERROR)
    if logging.lastResort is not None:  # errors of packages without their own handler
        logging.lastResort.setFormatter(_Plain("%(message)s"))
    for name in ("mlflow", "alembic", "matplotlib", "PIL", "torch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if not sys.warnoptions:  # python -W shows them
        warnings.simplefilter("ignore")
