"""Records runs as TensorBoard's event files: one folder per run, with scalars, parameters and plots.

Source: PyTorch documentation, `torch.utils.tensorboard`.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import os
import re
import sys
import types
import warnings
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kcv.common.files import expand_user
from kcv.common.untrusted import is_link
from kcv.config import TrackingConfig
from kcv.errors import TrackingError
from kcv.tracking.buffered import BufferedTracker
from kcv.tracking.data_record import DataRecord
from kcv.tracking.store import RunInfo, Store, StoreRejected, StoreUnavailable
from kcv.tracking.tracker import Tracker, register_tracker

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_SCHEME = "tensorboard"
_FORM = "tensorboard:FOLDER"
_EVENTS = "events.out.tfevents."
_MOST_IMAGE_BYTES = 16 * 2**20
_MOST_EVENT_BYTES = 2**30
"""The most bytes of an event file whose steps are read; that of a run has some kilobytes, and its plots."""
_MOST_FOLDERS = 10_000
"""The most folders of the same name."""


def _folder(uri: str) -> str | None:
    """Returns the folder of a URI."""
    return uri.partition(":")[2].removeprefix("//") or None


def _plain_folder(uri: str) -> str | None:
    folder = _folder(uri)
    return None if folder is None or folder.startswith("~") else folder


@register_tracker(_SCHEME, form=_FORM, place=_plain_folder)
def _open(config: TrackingConfig) -> Tracker:
    folder = _folder(str(config.uri))
    if folder is None:
        raise TrackingError(f"tracking.uri: received {config.uri!r}, which names no folder; allowed: {_FORM}.")
    if importlib.util.find_spec("tensorboard") is None:
        raise TrackingError(f"tracking.uri: {_FORM} needs TensorBoard: pip install 'kcv[tensorboard]'.")
    return BufferedTracker(TensorBoardStore(expand_user(folder)), config.experiment)


class TensorBoardStore(Store):
    """Implements `Store` for TensorBoard.

    A run is a folder with its name, and with its ID at the end of the names of its event files, so that a resumed run
    goes on in the same folder. Data sets and tags are shown under Text.

    Args:
        root: the folder that `tensorboard --logdir` is given.
    """

    remote = False

    def __init__(self, root: Path) -> None:
        self._root = Path(os.path.abspath(root))
        self.location = f"{_SCHEME}:{self._root}"
        self._writers: dict[str, SummaryWriter] = {}

    def prepare(self) -> None:
        """Imports TensorBoard's writer, and makes the folder.

        Raises:
            TrackingError: the folder cannot be used.
        """
        try:
            self._root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TrackingError(f"tracking.uri: {self._root}: {error.strerror or error}.") from None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about TensorBoard's dependencies, which a user cannot fix
            # What TensorBoard asks for to use its own reader and writer: TensorFlow takes seconds to import.
            sys.modules.setdefault("tensorboard.compat.notf", types.ModuleType("tensorboard.compat.notf"))
            for name in ("tensorboard.backend.event_processing.event_file_loader", "torch.utils.tensorboard"):
                importlib.import_module(name)

    def open_run(self, run: RunInfo, key: str, run_id: str | None) -> str:
        """Creates the folder of a run, or finds it by the name of its event file; see `Store.open_run`."""
        from torch.utils.tensorboard import SummaryWriter

        run_id = run_id or hashlib.sha256(key.encode()).hexdigest()[:16]
        if run_id in self._writers:
            return run_id
        with _on_disk():
            folder = self._find(run_id)
            is_new = folder is None
            folder = folder or self._create(run.name)
            writer = SummaryWriter(str(folder), filename_suffix=_suffix(run_id))
            self._writers[run_id] = writer
            if is_new:
                _describe(writer, run)
            writer.flush()
        return run_id

    def logged_steps(self, run_id: str, metric: str) -> set[int]:
        """Returns the logged steps of a run's metric, as its event files hold them; a damaged file ends where it is."""
        from google.protobuf.message import DecodeError
        from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
        from tensorboard.compat.proto.event_pb2 import Event

        found: set[int] = set()
        with _on_disk():
            folder = self._find(run_id)
            for file in sorted(folder.glob(f"{_EVENTS}*{_suffix(run_id)}")) if folder else ():
                if is_link(file) or file.stat().st_size > _MOST_EVENT_BYTES:
                    continue
                with contextlib.suppress(DecodeError):
                    events = map(Event.FromString, RawEventFileLoader(str(file)).Load())
                    found |= {int(one.step) for one in events if any(v.tag == metric for v in one.summary.value)}
        return found

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], step: int, timestamp: int) -> None:
        """Logs metrics of one step."""
        with self._open(run_id) as writer:
            for name, value in metrics.items():
                writer.add_scalar(name, value, step, timestamp / 1000)

    def log_dataset(self, run_id: str, record: DataRecord) -> None:
        """Logs a data set as a table under Text."""
        shown = {name: value for name, value in vars(record).items() if name not in ("split", "classes")}
        with self._open(run_id) as writer:
            writer.add_text(f"data/{record.split}", _table(shown))

    def log_artifact(self, run_id: str, path: Path, folder: str | None) -> None:
        """Logs a plot (PNG) under Images; other files stay in the run folder."""
        if path.suffix.lower() != ".png" or path.stat().st_size > _MOST_IMAGE_BYTES:
            return
        from PIL import Image
        from tensorboard.compat.proto.summary_pb2 import Summary

        with self._open(run_id) as writer:
            with Image.open(path) as image:
                width, height = image.size
            shown = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=path.read_bytes())
            tag = "/".join(filter(None, (folder, path.stem)))
            _add(writer, Summary(value=[Summary.Value(tag=tag, image=shown)]))

    def end_run(self, run_id: str, status: str, timestamp: int) -> None:
        """Writes how the run ended, and closes its file."""
        with self._open(run_id) as writer:
            writer.add_text("status", status, walltime=timestamp / 1000)
        with _on_disk():
            self._writers.pop(run_id).close()

    @contextlib.contextmanager
    def _open(self, run_id: str) -> Iterator[SummaryWriter]:
        """Yields a run's writer, and waits until the file holds what was written."""
        from torch.utils.tensorboard import SummaryWriter

        with _on_disk():
            if run_id not in self._writers:  # of a run of another process, or after a fault
                folder = self._find(run_id)
                if folder is None:
                    raise StoreRejected(f"the folder of the run {run_id} is gone", of_entry=True)
                self._writers[run_id] = SummaryWriter(str(folder), filename_suffix=_suffix(run_id))
            writer = self._writers[run_id]
            try:
                yield writer
                writer.flush()
            except OSError:
                del self._writers[run_id]  # its thread has ended; the next attempt begins a new file
                raise

    def _find(self, run_id: str) -> Path | None:
        files = self._root.glob(f"*/{_EVENTS}*{_suffix(run_id)}")
        return next((file.parent for file in files if not is_link(file.parent)), None)

    def _create(self, name: str) -> Path:
        """Makes a new folder with the name of a run, or a number after it where there is one."""
        stem = re.sub(r"[^\w.() -]", "_", name).strip(". ")[:100] or "run"
        for number in range(1, _MOST_FOLDERS):
            with contextlib.suppress(FileExistsError):
                folder = self._root / (stem if number == 1 else f"{stem}_{number}")
                folder.mkdir()
                return folder
        raise FileExistsError(f"{self._root / stem}: is there too often")


def _suffix(run_id: str) -> str:
    return f".kcv-{run_id}"


@contextlib.contextmanager
def _on_disk() -> Iterator[None]:
    """Turns the errors of files into StoreUnavailable: the disk may be full now, and not later."""
    try:
        yield
    except OSError as error:
        raise StoreUnavailable(str(error.strerror or error)) from error


def _describe(writer: SummaryWriter, run: RunInfo) -> None:
    """Writes the parameters of a run, for the page HPARAMS, and all there is about it as text."""
    from torch.utils.tensorboard import summary

    make: Any = summary.hparams  # not annotated
    if note := run.tags.get("note"):
        writer.add_text("note", escape(note))
    writer.add_text("parameters", _table(run.params))
    writer.add_text("environment", _table({name: value for name, value in run.tags.items() if name != "note"}))
    for one in make({name: _typed(value) for name, value in run.params.items()}, {"val_accuracy": None})[:2]:
        _add(writer, one)


def _add(writer: Any, summary: Any) -> None:
    """Writes a summary that `SummaryWriter` has no method for; `Any`, since torch does not annotate this."""
    writer._get_file_writer().add_summary(summary)


def _typed(value: str) -> float | str:
    """Returns a parameter as a number if it is one, so that it gets an axis."""
    try:
        return float(value)
    except ValueError:
        return value


def _table(values: Mapping[str, Any]) -> str:
    """Returns a Markdown table. What TensorBoard shows as HTML may come from a file name, so it is escaped."""
    rows = (f"| {_cell(name)} | {_cell(value)} |" for name, value in values.items())
    return "\n".join(["| name | value |", "| --- | --- |", *rows])


def _cell(value: Any) -> str:
    return escape(str(value)).replace("|", "&#124;").replace("\n", " ")
