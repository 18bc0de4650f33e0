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
from kcv.errors import ImageError
from kcv.inference import BATCH_SIZE, Forward, logits_of_batches, model_device, native_forward, softmax

if TYPE_CHECKING:
    import keras
    import torch


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

    @cached_property
    def _forward(self) -> Forward:
        return native_forward(self.keras_model)

    def predict(
        self, images: NDArray[np.uint8] | Sequence[str | Path | NDArray[np.uint8]], *, batch_size: int = BATCH_SIZE
    ) -> NDArray[np.float32]:
        """Classifies pictures.

        Args:
            images: uint8 [n, height, width, 3] RGB, or a sequence of paths or of such single pictures. Those that are
                not [image_size, image_size] are resized as the model was trained.
            batch_size: pictures a batch.

        Returns:
            Probabilities, float32 [n, classes], in the order of the pictures.

        Raises:
            ImageError: naming the first picture that cannot be read.
        """
        batches = self._batches(images, batch_size)
        return softmax(logits_of_batches(self.keras_model, batches, forward=self._forward)).astype(np.float32)

    def _batches(
        self, images: NDArray[np.uint8] | Sequence[str | Path | NDArray[np.uint8]], batch_size: int
    ) -> Iterator[torch.Tensor]:
        import torch

        device = model_device(self.keras_model)
        for start in range(0, len(images), batch_size):
            batch = [self._read(image) for image in images[start : start + batch_size]]
            yield torch.from_numpy(np.stack(batch)).to(device)

    def _read(self, image: str | Path | NDArray[np.uint8]) -> NDArray[np.uint8]:
        if isinstance(image, np.ndarray) and (image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3):
            raise ImageError(f"a picture must be uint8 [height, width, 3], not {image.dtype} {list(image.shape)}")
        return pictures.load(Path(image) if isinstance(image, str) else image, self.image_size, self.resize)
