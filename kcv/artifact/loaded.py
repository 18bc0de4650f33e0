"""A model in memory with everything its file said."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kcv import images as pictures
from kcv.artifact.info import ArtifactInfo
from kcv.calibration import Calibration
from kcv.inference import BATCH_SIZE, Forward, logits_of_batches, model_device, native_forward
from kcv.native.precision import in_float32

if TYPE_CHECKING:
    import keras
    import torch


_BATCH_PIXELS = 2**20
_SMALLEST_BATCH = 8


@dataclass(frozen=True)
class LoadedModel:
    """A classifier that is ready to use.

    Attributes:
        path: the file it came from.
        info: what the file says of itself.
        keras_model: the Keras model: RGB 0-255 [batch, image_size, image_size, 3] in, logits out.
    """

    path: Path
    info: ArtifactInfo
    keras_model: keras.Model

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, in the order of the probabilities."""
        return self.info.class_names

    @property
    def image_size(self) -> int:
        """Side of the square input, in pixels."""
        return self.info.image_size

    @property
    def resize(self) -> str:
        """How pictures of other sizes are brought to `image_size`."""
        return self.info.resize

    @property
    def calibration(self) -> Calibration:
        """How its logits become probabilities; where none was fitted, by softmax alone."""
        return self.info.calibration or Calibration()

    @property
    def threshold(self) -> float | None:
        """The confidence (0-1) below which it does not commit itself; None where it always does."""
        return self.calibration.threshold

    @property
    def preferred_batch(self) -> int:
        """How many pictures are computed at once where nobody says: fewer of larger ones."""
        return min(BATCH_SIZE, max(_SMALLEST_BATCH, _BATCH_PIXELS // self.image_size**2))

    @property
    def concurrent(self) -> bool:
        """Whether several threads should call `predict` at the same time: no, each batch uses all cores."""
        return False

    @cached_property
    def _forward(self) -> Forward:
        return native_forward(in_float32(self.keras_model))

    def predict(
        self, images: NDArray[np.uint8] | Sequence[str | Path | NDArray[np.uint8]], *, batch_size: int | None = None
    ) -> NDArray[np.float32]:
        """Classifies pictures, in float32 whatever precision the model was trained in.

        So a picture gets the same probabilities here and from the exported ONNX file, on every machine.

        Args:
            images: uint8 [n, height, width, 3] RGB, or a sequence of paths or of such single pictures. Those that are
                not [image_size, image_size] are resized as the model was trained.
            batch_size: pictures a batch; by default chosen by their size.

        Returns:
            Probabilities, float32 [n, classes], in the order of the pictures.

        Raises:
            ImageError: naming the first picture that cannot be read.
        """
        batches = self._batches(images, batch_size or self.preferred_batch)
        logits = logits_of_batches(self.keras_model, batches, forward=self._forward)
        return self.calibration.probabilities(logits).astype(np.float32)

    def _batches(
        self, images: NDArray[np.uint8] | Sequence[str | Path | NDArray[np.uint8]], batch_size: int
    ) -> Iterator[torch.Tensor]:
        import torch

        device = model_device(self.keras_model)
        for start in range(0, len(images), batch_size):
            batch = pictures.stack(images[start : start + batch_size], self.image_size, self.resize)
            yield torch.from_numpy(batch).to(device)
