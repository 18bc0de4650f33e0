"""An archive of torch.export (`.pt2`), which torch loads without Keras and kcv.

Source: PyTorch documentation, torch.export.save and torch.export.load.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kcv.exporting.formats import Format, Source, register

if TYPE_CHECKING:
    import torch

_BATCH = 32


class TorchProgram:
    """The program of an archive that was written a moment ago; one from a stranger must not be loaded.

    Args:
        path: the archive.
    """

    def __init__(self, path: Path) -> None:
        import torch

        self._module: torch.nn.Module = torch.export.load(path).module()

    def compute(self, batch: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Returns logits and probabilities, float32 [n, classes], of uint8 [n, size, size, 3]."""
        import torch

        with torch.no_grad():
            logits, probabilities = self._module(torch.from_numpy(batch))
        return logits.numpy(), probabilities.numpy()

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns logits, float32 [n, classes], of uint8 [n, size, size, 3]."""
        return np.concatenate([self.compute(pixels[at : at + _BATCH])[0] for at in range(0, len(pixels), _BATCH)])


def _write(source: Source, path: Path) -> Sequence[str]:
    import torch

    from kcv.exporting.graph import exported_program, quiet_exporter
    from kcv.inference.described_archive import DESCRIPTION

    program = exported_program(source.model, source.info)
    texts = json.dumps(source.info.to_metadata(), ensure_ascii=False)
    with quiet_exporter():
        torch.export.save(program, path, extra_files={DESCRIPTION: texts})
    return ()


register(Format("torch", "torch.export", ".pt2", _write, TorchProgram, next="info {}"))
