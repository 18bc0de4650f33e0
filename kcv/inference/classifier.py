"""What can classify images: a Keras model file or an ONNX file, opened by the suffix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Classifier(Protocol):
    """A model with everything its file said of it."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, in the order of the probabilities."""

    @property
    def image_size(self) -> int:
        """Side of the square input, in pixels."""

    @property
    def resize(self) -> str:
        """How images of other sizes are brought to `image_size`."""

    @property
    def threshold(self) -> float | None:
        """The confidence (0-1) below which it does not commit itself; None where it always does."""

    @property
    def preferred_batch(self) -> int:
        """How many images it computes well at once, where nobody says."""

    @property
    def concurrent(self) -> bool:
        """Whether several threads should call `predict` at the same time, each computing on its own core."""

    def predict(
        self, images: NDArray[np.uint8] | Sequence[str | Path | NDArray[np.uint8]], *, batch_size: int | None = None
    ) -> NDArray[np.float32]:
        """Returns probabilities, float32 [n, classes]."""


def is_onnx(path: str | Path) -> bool:
    """Whether a model file is an ONNX one, by its name."""
    return Path(path).suffix.lower() == ".onnx"


def open_classifier(path: str | Path, *, device: str = "auto", threads: int | None = None) -> Classifier:
    """Opens a model file. Only what its kind needs is imported: an ONNX file brings neither Keras nor torch.

    Args:
        path: `.onnx`, or anything else for a Keras model.
        device: where it is to run.
        threads: as in `OnnxModel`; a Keras model uses all cores for each batch.

    Raises:
        ArtifactError: the file cannot be opened.
        DeviceError: the device is not there.
    """
    if is_onnx(path):
        from kcv.inference.onnx_model import OnnxModel

        return OnnxModel(path, device=device, threads=threads)
    from kcv.inference import opening

    return opening.load(path, device=device)
