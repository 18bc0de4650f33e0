"""The native forms of Keras' layers: each file in this folder registers its own, see `lowered.lowers`."""

from __future__ import annotations

import importlib
import pkgutil

from kcv.native.layers.lowered import CONVOLUTIONS, LOWERINGS, REARRANGING

__all__ = ["CONVOLUTIONS", "LOWERINGS", "REARRANGING"]

for _module in pkgutil.iter_modules(__path__, f"{__name__}."):
    importlib.import_module(_module.name)
