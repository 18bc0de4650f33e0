"""Images of a small set, all on the device."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kcv.data.order import Indices


class ResidentPixels:
    """Batches of one split that lives on the device.

    Args:
        pixels: uint8 [n, size, size, 3].
        device: where they are to live; on the CPU they are shared, not copied.
    """

    def __init__(self, pixels: NDArray[np.uint8], device: torch.device) -> None:
        # torch warns of arrays that it could write to but must not; a copy is the quiet way.
        self._pixels = torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy()).to(device)

    def take(self, indices: Indices | Tensor) -> Tensor:
        """Returns the images at `indices` (a tensor is on the device already), uint8 [b, size, size, 3], a copy."""
        if not isinstance(indices, Tensor):
            indices = torch.from_numpy(indices).to(self._pixels.device)
        return self._pixels.index_select(0, indices)

    def close(self) -> None:
        """Nothing is open."""
