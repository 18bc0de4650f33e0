"""A prediction divided into parts, so that several processes can share it and it can be resumed.

Each part is a file in `OUTPUT.parts`, written atomically. The processes need no connection, only a common folder: each
computes the parts assigned to its rank, and the main process merges all parts in the order of the input.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from itertools import islice
from pathlib import Path
from typing import Any

from kcv.common import leftovers
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
"""Approximate images per part; rounded to a multiple of the batch, so that the batches equal those of one process."""

_OWN = re.compile(r"prediction\.json|part-\d{8,}\.jsonl|done-[0-9a-f]{16}-\d+|\..*\.kcv-[0-9a-f]{8}-.*")
"""The names of a prediction's files, the temporary ones among them."""

_LOOK_SECONDS = 0.1  # the polling interval while waiting for another process


class PredictionShards:
    """One prediction divided into parts.

    Args:
        job: the settings of the prediction.
        output: the file that the parts are merged into; its suffix selects the format.
        find: returns a new iterator over the same files on each call.
        launch: this process's rank and the world size.
        model: the model file, for the record.
        sent: called when the output is complete, before the parts are removed.
    """

    def __init__(
        self, job: Job, output: Path, find: Find, launch: Launch, model: str, sent: Callable[[], None] = lambda: None
    ) -> None:
        self._job = job
        self._output = output
        self._find = find
        self._launch = launch
        self._model = model
        self._sent = sent
        self._size = job.batch_size * max(1, ROWS // job.batch_size)
        self._folder = output.with_name(f"{output.name}.parts")
        self._of = ""  # the checksum of the prediction's record
        self._sound: dict[int, int] = {}  # the number of rows of each part that this process has checked or written

    def rows(self, *, resume: bool, bar: Progress | None = None) -> Iterator[dict[str, Any]]:
        """Computes this process's parts; the main process then yields all rows and writes them to the output.

        Args:
            resume: whether to keep existing parts.
            bar: shows the progress of this process.

        Raises:
            OutputError: parts exist and `resume` is not set, or they belong to another prediction.
        """
        record = self._record()
        self._of = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
        self._open(record, resume=resume)
        return self._work(-(-record["pictures"] // self._size), bar)

    def _record(self) -> dict[str, Any]:
        """Returns a description of the prediction, so that parts of another prediction are not mixed with its own."""
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
            **({"tta": tta} if (tta := self._job.model.tta_name) is not None else {}),
        }

    def _open(self, record: dict[str, Any], *, resume: bool) -> None:
        path = self._folder / "prediction.json"
        while not self._launch.is_main_process and _known(path) != record:
            time.sleep(_LOOK_SECONDS)  # the main process writes it, or fails and torchrun ends all processes
        if not self._launch.is_main_process:
            return
        if not os.path.lexists(path):
            self._require_own()
            write_json(path, record)
            return
        if not resume:
            raise OutputError(
                f"{self._folder} holds parts of a prediction that was cut short: go on with --resume, or remove it"
            )
        known = _known(path)
        if known is None:  # each part records its own prediction
            _log.warning("%s is damaged; parts of other predictions are done again", path)
            write_json(path, record)
            return
        if known != record:
            changed = ", ".join(key for key in record if known.get(key) != record[key]) or "record"
            changed = changed.replace("pictures", "images")  # the file keeps the key of the first release
            raise OutputError(f"{self._folder} is of another prediction (its {changed} differ); remove it")
        _log.info("resume     %d parts are finished", len(list(self._folder.glob("part-*.jsonl"))))

    def _require_own(self) -> None:
        """Refuses a folder of the same name that no prediction has made: its files would be in the way, or lost.

        Raises:
            OutputError: names what is in it.
        """
        try:
            leftovers.remove_from(self._folder)
            found = [name for name in sorted(os.listdir(self._folder)) if not _OWN.fullmatch(name)]
        except FileNotFoundError:
            return
        except OSError as error:
            raise OutputError(f"cannot read {self._folder}: {error.strerror or error}") from None
        if found:
            raise OutputError(f"{self._folder} holds {found[0]}, which is no part of a prediction; rename it, or "
                              "choose another --output")  # fmt: skip

    def _work(self, count: int, bar: Progress | None) -> Iterator[dict[str, Any]]:
        with ExitStack() as stack:
            if bar is not None:
                stack.enter_context(bar)
            files = self._find()
            for number in range(count):
                batch = list(islice(files, self._size))
                if number % self._launch.world_size == self._launch.rank and not self._kept(number, batch):
                    if os.path.lexists(self._part(number)):
                        _log.info("resume     part %d is damaged, or of other images: it is done again", number)
                    self._do(number, batch)
                if bar is not None:
                    bar.advance(len(batch))
        if self._launch.is_main_process:
            yield from self._merged(count)
        else:
            self._mark(self._launch.rank).touch()

    def _kept(self, number: int, files: list[Image]) -> bool:
        """Returns whether a part can be kept: it exists, is intact and matches the current state of these images."""
        path = self._part(number)
        if is_sound(path, files, self._job.columns, self._of):
            self._sound[number] = len(files)
        return number in self._sound

    def _do(self, number: int, files: list[Image]) -> None:
        state = state_of(files, self._of)  # before they are read: images that change meanwhile are computed again
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
        # Without the folder, a process that has not started yet would wait forever.
        while not all(self._mark(rank).exists() for rank in range(1, self._launch.world_size)):
            time.sleep(_LOOK_SECONDS)
        self._sent()
        self._remove()

    def _remove(self) -> None:
        """Removes the parts and their folder; a file that is not of the prediction stays, and so does the folder."""
        with suppress(OSError):
            for name in os.listdir(self._folder):
                if _OWN.fullmatch(name):
                    os.unlink(self._folder / name)
            self._folder.rmdir()

    def _wait(self, number: int, files: list[Image]) -> None:
        """Waits for a part of another process; if that process dies, torchrun ends this one, too."""
        owner = number % self._launch.world_size
        while number not in self._sound:
            # Checked first: once the owner has marked itself as done, it will write no further part.
            done = owner == self._launch.rank or self._mark(owner).exists()
            if self._kept(number, files):
                return
            if done:
                self._do(number, files)
            else:
                time.sleep(_LOOK_SECONDS)

    def _mark(self, rank: int) -> Path:
        """Returns the file by which a process marks itself as done; marks of earlier starts do not count."""
        start = hashlib.sha256(f"{self._launch.job} {self._launch.restarts}".encode()).hexdigest()[:16]
        return self._folder / f"done-{start}-{rank}"

    def _part(self, number: int) -> Path:
        return self._folder / f"part-{number:08d}.jsonl"


def _known(path: Path) -> dict[str, Any] | None:
    """Returns the record of the prediction that existing parts belong to; None if there is none or it is unreadable."""
    try:
        known = read_json(path, OutputError)
    except OutputError:
        return None
    return known if isinstance(known, dict) else None
