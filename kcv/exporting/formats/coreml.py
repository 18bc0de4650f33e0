"""Core ML: refused. Only macOS can run such a file, so no other machine can pass it through the parity check."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from kcv.errors import UsageError
from kcv.exporting.formats import Format, Source, register


def _refuse() -> NoReturn:
    where = platform.system() or "an unknown system"
    raise UsageError(
        f"--to=coreml: needs macOS, whose Core ML alone can run the file to check it (here: {where}), and the package "
        "coremltools; kcv does not write it yet."
    )


def _write(source: Source, path: Path) -> Sequence[str]:
    _refuse()


def _never(path: Path) -> NoReturn:
    _refuse()


register(Format("coreml", "Core ML", ".mlpackage", _write, _never, _refuse))
