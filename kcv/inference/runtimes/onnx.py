"""ONNX files, run by onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kcv.inference.runtimes import Runtime, register

if TYPE_CHECKING:
    from kcv.inference.exported import ExportedInfo
    from kcv.inference.onnx_model import OnnxModel


def _open(path: Path, device: str, threads: int | None) -> OnnxModel:
    from kcv.inference.onnx_model import OnnxModel

    return OnnxModel(path, device=device, threads=threads)


def _describe(path: Path) -> ExportedInfo:
    return _open(path, "cpu", None).info


register(Runtime(".onnx", "ONNX", _describe, _open))
