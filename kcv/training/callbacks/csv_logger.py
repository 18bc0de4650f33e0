"""Writes `history.csv`, a row an epoch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from kcv.common.files import write_csv
from kcv.training.resume.content import COLUMNS


class HistoryFile(keras.callbacks.Callback):
    """Collects one row an epoch and rewrites the file whole after each, so that it is never cut in the middle.

    Args:
        path: of the CSV file; None for none.

    Attributes:
        rows: what the file holds, as numbers; `epoch` counts from 1.
    """

    def __init__(self, path: Path | None) -> None:
        super().__init__()
        self.rows: list[dict[str, float]] = []
        self._path = path

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds the epoch's row and writes the file."""
        logs = logs or {}
        self.rows.append({"epoch": epoch + 1, **{key: float(logs[key]) for key in COLUMNS[1:]}})
        self._write()

    def state(self) -> dict[str, Any]:
        """Returns the rows."""
        return {"rows": list(self.rows)}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Takes the rows back, and out of the file what came after them."""
        self.rows = [dict(row) for row in state["rows"]]
        if self.rows:
            self._write()

    def _write(self) -> None:
        if self._path is not None:
            write_csv(self._path, COLUMNS, [[row[key] for key in COLUMNS] for row in self.rows])
