"""ONNX graphs that are written once for all workers: a trace takes seconds, and most tests look at what follows it."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from workers import locked

if TYPE_CHECKING:
    import keras

    from kcv.inference.onnx_model import OnnxInfo


@contextmanager
def keeping(folder: Path) -> Iterator[None]:
    """Gives `export`, inside the block, the graph that was written before for the same model and description.

    Args:
        folder: shared by the workers.
    """
    from kcv.exporting import graph
    from kcv.exporting.formats import DEFAULT_OPSET

    write = graph.write_graph

    def write_once(
        model: keras.Model,
        info: OnnxInfo,
        path: Path,
        *,
        opset: int = DEFAULT_OPSET,
        find_heatmaps: graph.FindSource | None = None,
    ) -> None:
        weights = (weight.tobytes() for weight in model.get_weights())
        told = (repr(info).encode(), model.to_json().encode(), f"{opset} {find_heatmaps is not None}".encode())
        kept = folder / f"graph-{hashlib.sha256(b''.join((*weights, *told))).hexdigest()}.onnx"
        with locked(kept.with_suffix(".lock")):
            if not kept.exists():
                write(model, info, path, opset=opset, find_heatmaps=find_heatmaps)
                kept.write_bytes(path.read_bytes())
        path.write_bytes(kept.read_bytes())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "write_graph", write_once)
        yield


@contextmanager
def keeping_operators() -> Iterator[None]:
    """Lets torch make its list of ONNX operators once for an opset, not for each trace: a quarter of a small one."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    make = ONNXRegistry.from_torchlib

    @functools.cache
    def made(opset_version: int = 18) -> ONNXRegistry:
        return make(opset_version=opset_version)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(made))
        yield
