"""What can classify images: a Keras model file or an ONNX file, opened by the suffix."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kcv.images import stack


class Description(Protocol):
    """What a model file says of its model, as far as predicting needs it."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, in the order of the probabilities."""

    @property
    def image_size(self) -> int:
        """Side of the square input, in pixels."""

    @property
    def resize(self) -> str:
        """How images of other sizes are brought to `image_size`, one of `kcv.images.RESIZE_MODES`."""

    @property
    def threshold(self) -> float | None:
        """The confidence (0-1) below which the model abstains; None: it never does."""


class Classifier(ABC):
    """A model and what its file says of it. Both kinds of model file are opened as one.

    A kind of model gives `info`, `preferred_batch`, `concurrent` and `_probabilities`; the rest follows.

    Example:
        >>> model = open_classifier("runs/mine/model.onnx")
        >>> model.predict(["cat.jpg", "dog.jpg"]).argmax(axis=1)
    """

    info: Description

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
        """How images of other sizes are brought to `image_size`, one of `kcv.images.RESIZE_MODES`."""
        return self.info.resize

    @property
    def threshold(self) -> float | None:
        """The confidence (0-1) below which the model abstains; None: it never does."""
        return self.info.threshold

    @property
    @abstractmethod
    def preferred_batch(self) -> int:
        """Images per batch that run well, where the caller names no number."""

    @property
    @abstractmethod
    def concurrent(self) -> bool:
        """Whether several threads should call `predict_pixels` at the same time, each computing on its own core."""

    @abstractmethod
    def _probabilities(self, batches: Iterable[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Returns probabilities, float32 [n, classes], of batches at the model's size, uint8 [batch, size, size, 3]."""

    def predict(
        self, images: NDArray[np.uint8] | Sequence[str | Path | NDArray[np.uint8]], *, batch_size: int | None = None
    ) -> NDArray[np.float32]:
        """Classifies images, in float32 whatever precision the model was trained in.

        So an image gets the same probabilities from a `.keras` file and from the ONNX file exported from it, on every
        machine.

        Args:
            images: uint8 [n, height, width, 3] RGB, or a sequence of paths or of such single images. Those that are
                not [image_size, image_size] are resized as the model was trained.
            batch_size: images per batch; by default `preferred_batch`.

        Returns:
            Probabilities, float32 [n, classes], in the order of the images.

        Raises:
            ImageError: naming the first image that cannot be read.
            ArtifactError: the model cannot be run, or its outputs are no probabilities.
        """
        size = batch_size or self.preferred_batch
        starts = range(0, len(images), size)
        return self._probabilities(stack(images[i : i + size], self.image_size, self.resize) for i in starts)

    def predict_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Classifies one batch of images at the model's size; `predict` without reading and resizing.

        Args:
            pixels: RGB, uint8 [n, image_size, image_size, 3].

        Returns:
            Probabilities, float32 [n, classes].

        Raises:
            ArtifactError: as `predict`.
        """
        return self._probabilities([pixels])


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
