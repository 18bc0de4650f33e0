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
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

from kcv.common.files import model_file, write_json
from kcv.common.launch import Launch
from kcv.common.progress import Progress
from kcv.common.rows import open_rows
from kcv.common.untrusted import read_json
from kcv.errors import OutputError
from kcv.images.urls import Find, Image
from kcv.inference.prediction import Job, classified
from kcv.inference.shard_file import is_sound, read_part, state_of, write_part

_log = logging.getLogger(__name__)

ROWS = 2048
"""Images of a part, about: it is a multiple of the batch, so that batches are those of an uncut prediction."""

_LOOK_SECONDS = 0.1  # between two looks whether another process has finished a part


class PredictionShards:
    """One prediction in parts.

    Args:
        job: what is done to the images.
        output: the file that all parts become; its suffix chooses the format.
        find: returns the files anew with each call, always the same.
        launch: this process's number, and of how many.
        model: the model file, for the record.
    """

    def __init__(self, job: Job, output: Path, find: Find, launch: Launch, model: str) -> None:
        self._job = job
        self._output = output
        self._find = find
        self._launch = launch
        self._model = model
        self._size = job.batch_size * max(1, ROWS // job.batch_size)
        self._folder = output.with_name(f"{output.name}.parts")
        self._of = ""  # the checksum of what this prediction is
        self._sound: dict[int, int] = {}  # how many rows the parts have that this process has checked or made

    def rows(self, *, resume: bool, bar: Progress | None = None) -> Iterator[dict[str, Any]]:
        """Does this process's parts; the first then yields the rows of all, and writes them to the output.

        Args:
            resume: whether parts that are there are kept.
            bar: shows how far this process is.

        Raises:
            OutputError: there are parts and `resume` is not set, or they are of another prediction.
        """
        record = self._record()
        self._of = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
        self._open(record, resume=resume)
        return self._work(-(-record["pictures"] // self._size), bar)

    def _record(self) -> dict[str, Any]:
        """Describes the prediction: parts of another one must not be mixed with its own."""
        names, count = hashlib.sha256(), 0
        for path in self._find():
            names.update(os.fsencode(str(path)) + b"\0")
            count += 1
        model = model_file(self._model)
        status = os.stat(model) if os.path.isfile(model) else None  # Path.is_file raises in a closed folder
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
        while not self._launch.is_main_process and _known(path) != record:
            time.sleep(_LOOK_SECONDS)  # the first process writes it, or says what is wrong, and torchrun ends all
        if not self._launch.is_main_process:
            return
        if not os.path.lexists(path):
            write_json(path, record)
            return
        if not resume:
            raise OutputError(
                f"{self._folder} holds parts of a prediction that was cut short: go on with --resume, or remove it"
            )
        known = _known(path)
        if known is None:  # each part says itself what it is of
            _log.warning("%s is damaged; parts of other predictions are done anew", path)
            write_json(path, record)
            return
        if known != record:
            changed = ", ".join(key for key in record if known.get(key) != record[key]) or "record"
            changed = changed.replace("pictures", "images")  # the file keeps the key of the first release
            raise OutputError(f"{self._folder} is of another prediction (its {changed} differ); remove it")
        _log.info("resume     %d parts are finished", len(list(self._folder.glob("part-*.jsonl"))))

    def _work(self, count: int, bar: Progress | None) -> Iterator[dict[str, Any]]:
        with ExitStack() as stack:
            if bar is not None:
                stack.enter_context(bar)
            files = self._find()
            for number in range(count):
                batch = list(islice(files, self._size))
                if number % self._launch.world_size == self._launch.rank and not self._kept(number, batch):
                    if os.path.lexists(self._part(number)):
                        _log.info("resume     part %d is damaged, or of other images: it is done anew", number)
                    self._do(number, batch)
                if bar is not None:
                    bar.advance(len(batch))
        if self._launch.is_main_process:
            yield from self._merged(count)
        else:
            self._mark(self._launch.rank).touch()

    def _kept(self, number: int, files: list[Image]) -> bool:
        """Tells whether a part need not be done: it is there, and whole, and of these images as they are now."""
        path = self._part(number)
        if is_sound(path, files, self._job.columns, self._of):
            self._sound[number] = len(files)
        return number in self._sound

    def _do(self, number: int, files: list[Image]) -> None:
        state = state_of(files, self._of)  # before they are read: what changes meanwhile is done anew next time
        write_part(self._part(number), classified(self._job, iter(files)), state)
        self._sound[number] = len(files)

    def _merged(self, count: int) -> Iterator[dict[str, Any]]:
        with open_rows(self._output, self._job.columns) as writer:
            files = self._find()
            for number in range(count):
                self._wait(number, list(islice(files, self._size)))
                for row in read_part(self._part(number), self._sound[number]):
                    writer.write(row)
                    yield row
        # A process that has not come yet would wait for the folder for ever.
        while not all(self._mark(rank).exists() for rank in range(1, self._launch.world_size)):
            time.sleep(_LOOK_SECONDS)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _wait(self, number: int, files: list[Image]) -> None:
        """Waits for a part of another process; should that process die, torchrun ends this one, too."""
        owner = number % self._launch.world_size
        while number not in self._sound:
            # Asked first: what it has left behind when it says that it is done is all that it will make.
            done = owner == self._launch.rank or self._mark(owner).exists()
            if self._kept(number, files):
                return
            if done:
                self._do(number, files)
            else:
                time.sleep(_LOOK_SECONDS)

    def _mark(self, rank: int) -> Path:
        """Returns the file by which a process says that it is done; those of earlier starts do not count."""
        start = hashlib.sha256(f"{self._launch.job} {self._launch.restarts}".encode()).hexdigest()[:16]
        return self._folder / f"done-{start}-{rank}"

    def _part(self, number: int) -> Path:
        return self._folder / f"part-{number:08d}.jsonl"


def _known(path: Path) -> dict[str, Any] | None:
    """Returns what parts are said to be of; None where nobody says, or it cannot be read."""
    try:
        known = read_json(path, OutputError)
    except OutputError:
        return None
    return known if isinstance(known, dict) else None
