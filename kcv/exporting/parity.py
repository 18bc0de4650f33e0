"""The parity check: an exported file is kept only if it agrees with its Keras model on real images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from kcv.errors import ParityError
from kcv.inference import outputs
from kcv.inference.tta import View, averaged
from kcv.metrics import accuracy
from kcv.metrics.temperature import Calibration

if TYPE_CHECKING:
    import keras

    from kcv.exporting.samples import Samples

PROBABILITY_TOLERANCE = 1e-5
"""Largest allowed difference between a probability and the one computed from the file's own logits."""
TOLERANCE = 1e-4
"""Largest allowed difference of a logit, relative to the largest logit but at least 1; covers float32 rounding only."""
BATCHES = (1, 3, 32)
"""The batch sizes to compare: one, an odd number, many."""
MOST_POINTS = 0.5
"""Percentage points of accuracy that an exported file may lose."""
_BATCH = 32


@dataclass(frozen=True)
class Parity:
    """The result of a comparison.

    Attributes:
        pictures: the number of images compared.
        max_difference: largest difference of a logit between Keras in float32 and the file's runtime, over `BATCHES`.
        tolerance: the largest allowed difference.
        max_probability_difference: largest difference between the file's probabilities and those that the model's
            calibration gives for the file's logits.
        agreement: fraction of the images (0-1) that get the same class from both; ties within the tolerance count as
            the same.
        keras_accuracy: accuracy of the Keras model (0-1); None without labels.
        onnx_accuracy: accuracy of the file (0-1), of whichever format; None without labels.
    """

    pictures: int
    max_difference: float
    tolerance: float
    agreement: float
    keras_accuracy: float | None
    onnx_accuracy: float | None
    max_probability_difference: float = 0.0

    def check(self) -> None:
        """Raises ParityError, with all numbers, unless the file passes."""
        problems = []
        # Written so that NaN fails the check.
        if not self.max_difference <= self.tolerance:
            problems.append(f"logits differ by up to {self.max_difference:.2g}, allowed {self.tolerance:.2g}")
        if not self.max_probability_difference <= PROBABILITY_TOLERANCE:
            problems.append(
                f"probabilities differ by up to {self.max_probability_difference:.2g} from those of the logits, "
                f"allowed {PROBABILITY_TOLERANCE:.2g}"
            )
        if self.agreement < 1:
            problems.append(f"only {self.agreement:.2%} of {self.pictures} images get the same class")
        if self.keras_accuracy is not None and self.onnx_accuracy is not None:
            lost = 100 * (self.keras_accuracy - self.onnx_accuracy)
            if lost > MOST_POINTS:
                problems.append(f"accuracy falls from {self.keras_accuracy:.2%} to {self.onnx_accuracy:.2%}")
        if problems:
            raise ParityError(
                "the exported file does not say what the model says, so it is not kept: "
                + "; ".join(problems)
                + f" (in all: {self.figures()})"
            )

    def figures(self) -> str:
        """Returns all numbers as text."""
        words = f"logits {self.max_difference:.2g}, probabilities {self.max_probability_difference:.2g}"
        words += f", same class {self.agreement:.2%} of {self.pictures}"
        if self.keras_accuracy is None or self.onnx_accuracy is None:
            return words
        return f"{words}, accuracy Keras {self.keras_accuracy:.2%}, file {self.onnx_accuracy:.2%}"


class Exported(Protocol):
    """An exported file, opened."""

    def compute(self, batch: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Returns its logits and probabilities, float32 [n, classes], for images at the model's size."""

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns its logits, float32 [n, classes], of any number of images at the model's size."""


class Reference(Protocol):
    """What a file that was made of several models is compared with."""

    def layer_by_layer(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns logits, float32 [n, classes], as Keras itself computes them."""

    def native(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns logits, float32 [n, classes], as the verbs compute them."""


def compare(
    model: keras.Model | Reference,
    exported: Exported,
    samples: Samples,
    calibration: Calibration | None = None,
    views: Sequence[View] = (),
) -> Parity:
    """Runs images through the Keras model and the exported file and compares the results.

    Args:
        model: the Keras model in float32. Keras itself runs it, layer by layer, so that the comparison also checks the
            native program that the file was made from. Of a file that was made of several models, their `Reference`.
        exported: the exported file.
        samples: the images.
        calibration: how the model's logits become probabilities; None for plain softmax.
        views: what the file averages by itself; empty if it does not.
    """
    reference = _OfOne(model, views) if hasattr(model, "input_shape") else model
    calibration = calibration or Calibration()
    largest = apart = scale = 0.0
    for batch in _batches(samples.pixels):
        theirs = reference.layer_by_layer(batch)
        ours, probabilities = exported.compute(batch)  # NaN is detected below
        if not (np.isfinite(ours).all() and np.isfinite(theirs).all() and np.isfinite(probabilities).all()):
            largest = float("inf")  # max() would skip NaN
            continue
        largest = max(largest, float(np.abs(ours - theirs).max()))
        apart = max(apart, float(np.abs(probabilities - calibration.probabilities(ours)).max()))
        scale = max(scale, float(np.abs(theirs).max()))
    tolerance = TOLERANCE * max(1.0, scale)
    native = reference.native(samples.pixels)
    ours = exported.logits(samples.pixels)
    same = native.argmax(axis=1) == ours.argmax(axis=1)
    top = np.sort(native, axis=1)
    same |= top[:, -1] - top[:, -2] <= 2 * tolerance
    labels = samples.labels
    return Parity(
        pictures=len(samples.pixels),
        max_difference=largest,
        tolerance=tolerance,
        agreement=float(same.mean()),
        keras_accuracy=None if labels is None else accuracy(labels, native),
        onnx_accuracy=None if labels is None else accuracy(labels, ours),
        max_probability_difference=apart,
    )


@dataclass(frozen=True)
class _OfOne:
    """The reference of a file that was made of one model, or of its mean over views of each image."""

    model: keras.Model
    views: Sequence[View] = ()

    def layer_by_layer(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._averaged(partial(layer_by_layer, self.model), batch)

    def native(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._averaged(partial(native_logits, self.model), pixels)

    def _averaged(
        self, forward: Callable[[NDArray[np.uint8]], NDArray[np.float32]], pixels: NDArray[np.uint8]
    ) -> NDArray[np.float32]:
        return averaged(forward, pixels, self.views) if self.views else forward(pixels)


def _batches(pixels: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """Yields one batch of each size, from consecutive images; starts again from the first when they run out."""
    start = 0
    for size in BATCHES:
        yield pixels[np.arange(start, start + size) % len(pixels)]
        start += size


def layer_by_layer(model: keras.Model, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns the logits of a batch, float32 [n, classes], as Keras computes them."""
    return np.asarray(model(batch, training=False).detach().cpu(), np.float32)


def native_logits(model: keras.Model, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns the logits of images at a model's size, float32 [n, classes], by its native program."""
    import torch

    device = outputs.model_device(model)
    starts = range(0, len(pixels), _BATCH)
    return outputs.logits_of_batches(model, (torch.from_numpy(pixels[i : i + _BATCH]).to(device) for i in starts))
