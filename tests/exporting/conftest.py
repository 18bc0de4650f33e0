"""Graphs that are written once: a trace takes three seconds, and the tests of what comes after it need no new one."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import kcv.exporting as exporting

if TYPE_CHECKING:
    import keras

    from kcv.onnx_model import OnnxInfo

_KEPT: dict[tuple[Any, ...], bytes] = {}


@pytest.fixture
def kept_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives `export` the graph that it has written before for the same model and description."""
    write = exporting.write_graph

    def write_once(model: keras.Model, info: OnnxInfo, path: Path, *, opset: int = exporting.DEFAULT_OPSET) -> None:
        weights = hashlib.sha256(b"".join(weight.tobytes() for weight in model.get_weights())).digest()
        key = (weights, model.to_json(), info, opset)
        if key not in _KEPT:
            write(model, info, path, opset=opset)
            _KEPT[key] = path.read_bytes()
        path.write_bytes(_KEPT[key])

    monkeypatch.setattr(exporting, "write_graph", write_once)
