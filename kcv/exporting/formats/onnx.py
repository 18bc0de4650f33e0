"""ONNX, one file that runs anywhere (decision 007)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kcv.exporting.formats import DEFAULT, Format, Source, register

if TYPE_CHECKING:
    from kcv.inference.onnx_model import OnnxModel


def write(source: Source, path: Path) -> Sequence[str]:
    """Writes a model as an ONNX file; see `kcv.exporting.graph.write_graph`."""
    from kcv.exporting import graph

    graph.write_graph(source.model, source.info, path, opset=source.opset, find_heatmaps=source.find_heatmaps)
    return ()


def _open(path: Path) -> OnnxModel:
    from kcv.inference.onnx_model import OnnxModel

    return OnnxModel(path, device="cpu")


register(Format(DEFAULT, "ONNX", ".onnx", write, _open, options=("precision", "opset", "heatmaps")))
