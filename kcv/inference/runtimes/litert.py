"""Files of LiteRT: described, but not run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from kcv.errors import UsageError
from kcv.inference.runtimes import Runtime, register

if TYPE_CHECKING:
    from kcv.inference.exported import ExportedInfo


def _describe(path: Path) -> ExportedInfo:
    from kcv.inference.described_archive import describe_litert

    return describe_litert(path)


def _refuse(path: Path, device: str, threads: int | None) -> NoReturn:
    raise UsageError(
        f"{path}: a file of LiteRT is not run by kcv, which has no checks for its graph; LiteRT itself opens it "
        "(docs/guides/deploy.md). model.keras and model.onnx are run."
    )


register(Runtime(".tflite", "LiteRT", _describe, _refuse))
