"""The formats of exported files that kcv reads: each file in this folder registers one, and no other code names it.

The files import nothing heavy until they open something. `kcv/exporting/formats/` has those that kcv writes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kcv.common.discovery import import_modules

if TYPE_CHECKING:
    from kcv.inference.exported import ExportedInfo, ExportedModel


@dataclass(frozen=True)
class Runtime:
    """How files of one format are read.

    Attributes:
        suffix: the suffix of such a file, in lower case.
        title: the name of the format, for messages.
        describe: reads the description that a file holds, and checks the file as far as it is read.
        open: opens a file; takes its path, the device and the threads per batch, as `open_classifier` does. It raises
            UsageError where the runtime is not installed, or the format cannot be run here at all.
    """

    suffix: str
    title: str
    describe: Callable[[Path], ExportedInfo]
    open: Callable[[Path, str, int | None], ExportedModel]


_RUNTIMES: dict[str, Runtime] = {}


def register(runtime: Runtime) -> None:
    """Registers a format.

    Raises:
        ValueError: another format has that suffix.
    """
    if runtime.suffix in _RUNTIMES:
        raise ValueError(f"there are two formats of the suffix {runtime.suffix}")
    _RUNTIMES[runtime.suffix] = runtime


def runtime_of(path: str | Path) -> Runtime | None:
    """Returns the format of an exported file, judged by its name; None for any other file, such as a Keras model."""
    import_modules(__name__)
    return _RUNTIMES.get(Path(path).suffix.lower())
