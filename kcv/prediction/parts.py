"""A prediction cut into parts: several processes share them, and what is finished need not be done again.

The parts lie in `OUTPUT.parts`, a file each, whole or not there. Processes need no connection for this, only the same
folder: each takes the parts of its number, and the first puts all of them together in the order of the input.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

from kcv.errors import OutputError
from kcv.files import atomic, write_json
from kcv.launch import Launch
from kcv.prediction.job import Job, classified
from kcv.progress import Progress
from kcv.rows import open_rows

_log = logging.getLogger(__name__)

ROWS = 2048
"""Pictures of a part, about: it is a multiple of the batch, so that batches are those of an uncut prediction."""

_LOOK_SECONDS = 0.1  # between two looks whether another process has finished a part


class Parts:
    """One prediction in parts.

    Args:
        job: what is done to the pictures.
        output: the file that all parts become; its suffix chooses the format.
        find: returns the files anew with each call, always the same.
        launch: this process's number, and of how many.
        model: the model file, for the record.
    """

    def __init__(self, job: Job, output: Path, find: Callable[[], Iterator[Path]], launch: Launch, model: str) -> None:
        self._job = job
        self._output = output
        self._find = find
        self._launch = launch
        self._model = model
        self._size = job.batch_size * max(1, ROWS // job.batch_size)
        self._folder = output.with_name(f"{output.name}.parts")

    def rows(self, *, resume: bool, bar: Progress | None = None) -> Iterator[dict[str, Any]]:
        """Does this process's parts; the first then yields the rows of all, and writes them to the output.

        Args:
            resume: whether parts that are there are kept.
            bar: shows how far this process is.

        Raises:
            OutputError: there are parts and `resume` is not set, or they are of another prediction.
        """
        record = self._record()
        self._open(record, resume=resume)
        return self._work(-(-record["pictures"] // self._size), bar)

    def _record(self) -> dict[str, Any]:
        """Describes the prediction: parts of another one must not be mixed with its own."""
        names, count = hashlib.sha256(), 0
        for path in self._find():
            names.update(os.fsencode(path) + b"\0")
            count += 1
        model = Path(self._model)
        status = model.stat() if model.is_file() else None
        return {
            "pictures": count,
            "names": names.hexdigest(),
            "model": self._model,
            "model_bytes": status.st_size if status else None,
            "model_changed": status.st_mtime_ns if status else None,
            "part": self._size,
            "batch": self._job.batch_size,
            "columns": self._job.columns,
            "threshold": self._job.threshold,
        }

    def _open(self, record: dict[str, Any], *, resume: bool) -> None:
        path = self._folder / "prediction.json"
        while not self._launch.first and _read(path) != record:
            time.sleep(_LOOK_SECONDS)  # the first process writes it, or says what is wrong, and torchrun ends all
        if not self._launch.first:
            return
        known = _read(path)
        if known is not None and not resume:
            raise OutputError(
                f"{self._folder} holds parts of a prediction that was cut short: go on with --resume, or remove it"
            )
        if known is not None and known != record:
            changed = ", ".join(key for key in record if known.get(key) != record[key])
            raise OutputError(f"{self._folder} is of another prediction (its {changed} differ); remove it")
        if known is None:
            write_json(path, record)
        else:
            _log.info("resume     %d parts are finished", len(list(self._folder.glob("part-*.jsonl"))))

    def _work(self, count: int, bar: Progress | None) -> Iterator[dict[str, Any]]:
        with ExitStack() as stack:
            if bar is not None:
                stack.enter_context(bar)
            files = self._find()
            for number in range(count):
                batch = list(islice(files, self._size))
                mine = number % self._launch.size == self._launch.rank
                if mine and not self._part(number).exists():
                    self._do(number, batch)
                if bar is not None:
                    bar.advance(len(batch))
        if self._launch.first:
            yield from self._merged(count)
        else:
            self._mark(self._launch.rank).touch()

    def _do(self, number: int, files: list[Path]) -> None:
        with atomic(self._part(number)) as temporary, temporary.open("w", encoding="ascii") as stream:
            for rows in classified(self._job, iter(files)):
                stream.writelines(json.dumps(row) + "\n" for row in rows)

    def _merged(self, count: int) -> Iterator[dict[str, Any]]:
        with open_rows(self._output, self._job.columns) as writer:
            for number in range(count):
                part = self._part(number)
                while not part.exists():  # should its process die, torchrun ends this one, too
                    time.sleep(_LOOK_SECONDS)
                with part.open(encoding="ascii") as stream:
                    for line in stream:
                        row = json.loads(line)
                        writer.write(row)
                        yield row
        # A process that has not come yet would wait for the folder for ever.
        while not all(self._mark(rank).exists() for rank in range(1, self._launch.size)):
            time.sleep(_LOOK_SECONDS)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _mark(self, rank: int) -> Path:
        """Returns the file by which a process says that it is done; those of earlier starts do not count."""
        start = hashlib.sha256(f"{self._launch.job} {self._launch.restarts}".encode()).hexdigest()[:16]
        return self._folder / f"done-{start}-{rank}"

    def _part(self, number: int) -> Path:
        return self._folder / f"part-{number:08d}.jsonl"


def _read(path: Path) -> dict[str, Any] | None:
    """Returns what parts are of; None where there are none, nothing where it cannot be read."""
    try:
        known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return known
