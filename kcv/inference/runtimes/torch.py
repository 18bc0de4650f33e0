"""Archives of torch.export: described, but not run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from kcv.errors import UsageError
from kcv.inference.runtimes import Runtime, register

if TYPE_CHECKING:
    from kcv.inference.exported import ExportedInfo


def _describe(path: Path) -> ExportedInfo:
    from kcv.inference.described_archive import describe_torch

    return describe_torch(path)


def _refuse(path: Path, device: str, threads: int | None) -> NoReturn:
    raise UsageError(
        f"{path}: a torch.export archive is not run by kcv, because torch evaluates expressions in it; where you trust "
        "it, torch.export.load opens it (docs/guides/deploy.md). model.keras and model.onnx are run."
    )


register(Runtime(".pt2", "torch.export", _describe, _refuse))
