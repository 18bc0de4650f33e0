"""The only module that imports the extra keras-cv, and tensorflow, in the one order that works; builds its layers.

torch and tensorflow each contain a copy of LLVM: torch in triton, which Keras' torch backend imports, and tensorflow in
its own libraries. If tensorflow's copy is loaded first, loading triton's aborts the process, with no exception to catch
("Option ... registered more than once"). `import torch` alone does not load triton, so the order torch, tensorflow,
Keras aborts the process, too.
Therefore Keras, on its torch backend, is imported before tensorflow (docs/decisions/014-keras-cv.md).
"""

from __future__ import annotations

import inspect
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final

from kcv.data.augment import layer_list
from kcv.data.augment.layer_list import Catalogue
from kcv.errors import ConfigError

_REFUSED: Final[Mapping[str, str]] = {
    "RandomJpegQuality": "takes values of 0 to 1, and kcv's images have 0 to 255",
    "Rescaling": "changes what values mean; the model rescales",
    "RepeatedAugmentation": "gives more images than it gets",
    "RandomAspectRatio": "gives images of another size",
    "Resizing": "is not random; data.image_size and data.resize decide the size",
}
"""Layers that kcv cannot use in training, and why."""


@dataclass(frozen=True)
class KerasCv:
    """The two imported libraries.

    Attributes:
        cv: the module `keras_cv`.
        tf: the module `tensorflow`.
    """

    cv: Any
    tf: Any


def installed() -> bool:
    """Returns whether the extra is installed, without importing it."""
    return all(find_spec(name) is not None for name in ("keras_cv", "tensorflow"))


def open_kerascv() -> KerasCv:
    """Imports keras-cv and tensorflow after Keras; silences tensorflow and keeps it off the GPUs.

    Raises:
        ConfigError: the extra is not installed, or tensorflow was imported in an order that would abort the process.
    """
    if not installed():
        raise ConfigError(["augment.library=keras_cv needs the extra: pip install 'kcv[kerascv]'"])
    if "tensorflow" in sys.modules and "triton._C.libtriton" not in sys.modules and find_spec("triton") is not None:
        raise ConfigError(
            [
                "augment.library=keras_cv: tensorflow was imported before Keras' torch backend, and to import that now "
                "would end the process; import kcv and keras first"
            ]
        )
    # tensorflow's C++ code reads it once, on loading.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras  # noqa: F401 (loads triton's LLVM, before tensorflow's)

    with _generators_untouched():
        import tensorflow as tf

        # tensorflow would warn, every time, about each operation that it can only vectorise by a loop.
        tf.get_logger().setLevel(logging.ERROR)
        with suppress(RuntimeError):  # tensorflow is already in use in this process, so its devices are fixed
            tf.config.set_visible_devices([], "GPU")
        import keras_cv
    return KerasCv(keras_cv, tf)


@contextmanager
def _generators_untouched() -> Iterator[None]:
    """Restores the global random generators after the block, because importing draws from them."""
    import random

    import numpy as np

    before, numbers = random.getstate(), np.random.get_state()
    yield
    random.setstate(before)
    np.random.set_state(numbers)


def layer_names(library: KerasCv) -> list[str]:
    """Returns the names of the layers that a configuration can use, in alphabetical order."""
    layers = library.cv.layers
    bases = (layers.BaseImageAugmentationLayer, layers.VectorizedBaseImageAugmentationLayer)
    return [
        name
        for name, kind in sorted(vars(layers).items())
        if inspect.isclass(kind) and issubclass(kind, bases) and kind not in bases and name not in _REFUSED
    ]


def build_layers(library: KerasCv, entries: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Builds the layers that a configuration lists, see `kcv.data.augment.layer_list`."""
    catalogue = Catalogue("keras-cv", library.cv.layers, layer_names(library), _REFUSED)
    return layer_list.build_layers(catalogue, entries)
