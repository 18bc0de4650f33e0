"""LiteRT (TensorFlow Lite), for phones: one `.tflite` file that takes one image at a time.

The batch is fixed, because the converter has no form for one of any size. What kcv says of the model is in a zip
archive behind the graph, where readers of such files look for files that belong to one.

Source: LiteRT documentation, "PyTorch model conversion"; TensorFlow Lite Metadata, "associated files".
"""

from __future__ import annotations

import json
import logging
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kcv.errors import ExportError, first_line
from kcv.exporting.formats import Format, Source, register, require_package


class LiteRtProgram:
    """A file that was written a moment ago; kcv does not run one from a stranger.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter: Any = Interpreter(str(path))
        self._interpreter.allocate_tensors()
        (self._input,) = self._interpreter.get_input_details()
        self._outputs = self._interpreter.get_output_details()

    def compute(self, batch: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Returns logits and probabilities, float32 [n, classes], of uint8 [n, size, size, 3]."""
        rows: list[list[NDArray[np.float32]]] = []
        for image in batch:
            self._interpreter.set_tensor(self._input["index"], image[None])
            self._interpreter.invoke()
            rows.append([self._interpreter.get_tensor(output["index"]) for output in self._outputs])
        logits, probabilities = (np.concatenate(parts) for parts in zip(*rows, strict=True))
        return logits, probabilities

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns logits, float32 [n, classes], of uint8 [n, size, size, 3]."""
        return self.compute(pixels)[0]


def _require() -> None:
    require_package("litert", "litert_torch", "litert-torch")
    require_package("litert", "ai_edge_litert.interpreter", "ai-edge-litert")


def _write(source: Source, path: Path) -> Sequence[str]:
    import litert_torch
    import torch

    from kcv.exporting.graph import module_of, quiet_exporter
    from kcv.inference.described_archive import DESCRIPTION

    size = source.info.image_size
    image = torch.zeros((1, size, size, 3), dtype=torch.uint8)
    module = module_of(source.model, source.info)
    before = logging.root.manager.disable
    try:
        logging.disable(logging.ERROR)  # the converter reports each of its steps
        with torch.no_grad(), quiet_exporter():
            litert_torch.convert(module, (image,)).export(str(path))
    except (RuntimeError, LookupError, AssertionError, NotImplementedError) as error:
        raise ExportError(f"{source.info.model_name} has no form in LiteRT: {first_line(error)}") from error
    finally:
        logging.disable(before)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(DESCRIPTION, json.dumps(source.info.to_metadata(), ensure_ascii=False))
    return ()


register(Format("litert", "LiteRT", ".tflite", _write, LiteRtProgram, _require, next="info {}"))
