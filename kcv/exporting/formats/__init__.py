"""The formats that `kcv export` writes: each file in this folder registers one, and no other code names it.

The files import nothing heavy until they write something, so that the help can list the names. Those that kcv reads are
in `kcv/inference/runtimes/`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kcv.common.discovery import import_modules
from kcv.errors import UsageError

if TYPE_CHECKING:
    import keras

    from kcv.exporting.graph import FindSource
    from kcv.exporting.parity import Exported
    from kcv.inference.exported import ExportedInfo

DEFAULT_OPSET: Final = 20
"""The first version of ONNX's operators with GELU as a single one."""


@dataclass(frozen=True)
class Source:
    """What is exported.

    Attributes:
        model: the Keras model in float32.
        info: the description that the file will contain.
        opset: version of ONNX's operators, for formats that are made from an ONNX file.
        find_heatmaps: finds what heat maps are computed from; None for a file without them.
    """

    model: keras.Model
    info: ExportedInfo
    opset: int
    find_heatmaps: FindSource | None = None


@dataclass(frozen=True)
class Format:
    """A format that models are exported to.

    Attributes:
        name: what users type.
        title: the name in sentences.
        suffix: the suffix of the file.
        write: writes the file. It may write more files beside it, of the same name and other suffixes, and returns
            their suffixes. Raises ExportError where the model has no form in the format.
        open: opens a file that `write` has just written, for the parity check.
        require: raises UsageError where the format cannot be written here, and says what is missing.
        next: the words after `kcv` that use a file, for which `{}` stands.
        options: what else of `export` the format has: `precision`, `opset`, `heatmaps`.
    """

    name: str
    title: str
    suffix: str
    write: Callable[[Source, Path], Sequence[str]]
    open: Callable[[Path], Exported]
    require: Callable[[], None] = lambda: None
    next: str = "predict IMAGE --model={}"
    options: tuple[str, ...] = ()


DEFAULT: Final = "onnx"

_FORMATS: dict[str, Format] = {}


def register(format: Format) -> None:
    """Registers a format.

    Raises:
        ValueError: another format has that name.
    """
    if format.name in _FORMATS:
        raise ValueError(f"there are two formats of the name {format.name}")
    _FORMATS[format.name] = format


def names() -> tuple[str, ...]:
    """Returns the names of all formats, the default first."""
    import_modules(__name__)
    return tuple(sorted(_FORMATS, key=lambda name: (name != DEFAULT, name)))


def find(name: str) -> Format:
    """Returns a format by its name, which is one of `names`."""
    import_modules(__name__)
    return _FORMATS[name]


def require_package(format: str, module: str, install: str) -> None:
    """Raises UsageError unless a module can be imported.

    Args:
        format: the name of the format that needs it.
        module: what is imported.
        install: what pip installs for it.
    """
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise UsageError(f"--to={format}: needs {error.name or module}: pip install '{install}'.") from None
