"""OpenVINO's files, a graph in `.xml` and its weights in `.bin`, run by OpenVINO."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kcv.inference.runtimes import Runtime, register

if TYPE_CHECKING:
    from kcv.inference.exported import ExportedInfo
    from kcv.inference.openvino_model import OpenVinoModel


def _open(path: Path, device: str, threads: int | None) -> OpenVinoModel:
    from kcv.inference.openvino_model import OpenVinoModel

    return OpenVinoModel(path, device=device, threads=threads)


def _describe(path: Path) -> ExportedInfo:
    from kcv.inference.openvino_model import describe

    return describe(path)


register(Runtime(".xml", "OpenVINO", _describe, _open))
