"""The common interface of classifiers; the file suffix selects the Keras one or that of an exported format."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kcv.errors import UsageError
from kcv.images import stack
from kcv.inference.runtimes import runtime_of
from kcv.inference.tta import Tta
from kcv.metrics.conformal import PredictionSets

_log = logging.getLogger(__name__)


class Description(Protocol):
    """The parts of a model file's description that prediction needs."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class names, in the order of the probabilities."""

    @property
    def image_size(self) -> int:
        """Side of the square input, in pixels."""

    @property
    def resize(self) -> str:
        """How images of other sizes are resized to `image_size`, one of `kcv.images.RESIZE_MODES`."""

    @property
    def threshold(self) -> float | None:
        """The confidence (0-1) below which the model abstains; None if it never abstains."""

    @property
    def sets(self) -> PredictionSets | None:
        """Which classes belong to the set of an image; None if there are no sets."""


class Classifier(ABC):
    """A model with the description from its file; the common base class of all kinds of model file.

    A subclass provides `info`, `preferred_batch`, `concurrent` and `_probabilities`; this class derives the rest.

    Example:
        >>> model = open_classifier("runs/mine/model.onnx")
        >>> model.predict(["cat.jpg", "dog.jpg"]).argmax(axis=1)
    """

    info: Description

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class names, in the order of the probabilities."""
        return self.info.class_names

    @property
    def image_size(self) -> int:
        """Side of the square input, in pixels."""
        return self.info.image_size

    @property
    def resize(self) -> str:
        """How images of other sizes are resized to `image_size`, one of `kcv.images.RESIZE_MODES`."""
        return self.info.resize

    @property
    def threshold(self) -> float | None:
        """The confidence (0-1) below which the model abstains; None if it never abstains."""
        return self.info.threshold

    @property
    def sets(self) -> PredictionSets | None:
        """Which classes belong to the set of an image; None if there are no sets."""
        return self.info.sets

    @property
    def tta_name(self) -> str | None:
        """The test-time augmentation whose views are averaged; None if there is none."""
        return None

    def with_tta(self, tta: Tta) -> Classifier:
        """Returns this model with test-time augmentation: its logits are means over views of each image.

        Its calibration is that which was fitted for it; else the plain one, with a warning, and without prediction
        sets, whose promise would not hold.

        Raises:
            UsageError: the model cannot be augmented.
        """
        raise UsageError(f"--tta: {type(self).__name__} has none.")

    @property
    @abstractmethod
    def preferred_batch(self) -> int:
        """The default number of images per batch."""

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
        """Classifies images in float32, regardless of the precision the model was trained in.

        An image therefore gets the same probabilities from a `.keras` file and from the ONNX file exported from it,
        on every machine.

        Args:
            images: RGB, uint8 [n, height, width, 3], or a sequence of paths or of single images. Images that are not
                [image_size, image_size] are resized in the same way as during training.
            batch_size: images per batch; by default `preferred_batch`.

        Returns:
            Probabilities, float32 [n, classes], in the order of the images.

        Raises:
            ImageError: an image cannot be read; the message names the first one.
            ArtifactError: the model cannot be run, or its outputs are not probabilities.
        """
        size = batch_size or self.preferred_batch
        starts = range(0, len(images), size)
        return self._probabilities(stack(images[i : i + size], self.image_size, self.resize) for i in starts)

    def predict_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Classifies one batch of images at the model's size: `predict` without reading and resizing.

        Args:
            pixels: RGB, uint8 [n, image_size, image_size, 3].

        Returns:
            Probabilities, float32 [n, classes].

        Raises:
            ArtifactError: as for `predict`.
        """
        return self._probabilities([pixels])


def warn_of_plain_calibration(path: Path, tta: Tta) -> None:
    """Logs that a file has no calibration of its own for a test-time augmentation."""
    _log.warning(
        "%s: was not calibrated for --tta=%s; `kcv evaluate --calibrate --tta=%s` does that. Until then confidences "
        "have the plain temperature, and there are no prediction sets",
        path,
        tta.name,
        tta.name,
    )


def is_onnx(path: str | Path) -> bool:
    """Returns whether a model file is an ONNX file, judged by its name."""
    return Path(path).suffix.lower() == ".onnx"


def open_classifier(path: str | Path, *, device: str = "auto", threads: int | None = None) -> Classifier:
    """Opens a model file. Imports only what its kind needs: an ONNX file loads neither Keras nor torch.

    Args:
        path: a file of a format in `kcv/inference/runtimes/`; any other suffix means a Keras model.
        device: the device to run on.
        threads: as in `OnnxModel`; a Keras model uses all cores for each batch.

    Raises:
        ArtifactError: the file cannot be opened.
        DeviceError: the device is not available.
        UsageError: the file's runtime is not installed, or its format is not run by kcv.
    """
    runtime = runtime_of(path)
    if runtime is not None:
        return runtime.open(Path(path), device, threads)
    from kcv.inference import opening

    return opening.load(path, device=device)
