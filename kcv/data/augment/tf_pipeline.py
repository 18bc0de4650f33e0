"""Runs keras-cv's layers in a tf.data pipeline that augments batches ahead of their use, in graph mode.

The graph keeps no state (`kcv.data.augment.keras_cv_graph`), so threads can process several batches at a time. The
batches are yielded in their own order and are reproducible bit for bit.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from torch import Tensor

from kcv.data.augment.keras_cv import open_kerascv
from kcv.data.augment.keras_cv_graph import trace
from kcv.errors import ConfigError, first_line

Plain: TypeAlias = tuple[tuple[int, int], Tensor, Tensor]
"""Key of a batch (two numbers below 2**63); images, uint8 [b, size, size, 3]; targets, float32 [b, classes]."""

_AHEAD: Final = 2
"""The number of finished batches that wait for use."""

_THREADS: Final = 2
"""The number of batches processed at the same time; each also uses tensorflow's threads."""


class Pipeline:
    """A configuration's keras-cv layers, as one graph within tf.data.

    Args:
        layers: `augment.layers`, validated.
        image_size: side of the images, in pixels.
        num_classes: width of the targets.
        device: the device of the results; the layers run on the CPU.

    Raises:
        ConfigError: the extra is missing, or a layer is unknown, has wrong arguments, or cannot run here.
    """

    def __init__(
        self, layers: Sequence[Mapping[str, Any]], image_size: int, num_classes: int, device: torch.device | str
    ) -> None:
        library = open_kerascv()
        self._tf = library.tf
        self._device = torch.device(device)
        self._signature = (
            self._tf.TensorSpec([2], self._tf.int64),
            self._tf.TensorSpec([None, image_size, image_size, 3], self._tf.uint8),
            self._tf.TensorSpec([None, num_classes], self._tf.float32),
        )
        self._changed = trace(library, layers, self._signature)
        # Some errors appear only when the graph runs: better now than in the first step of a run.
        noise = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, image_size, image_size, 3), np.uint8))
        try:
            images, targets = self(((0, 0), noise, torch.full((4, num_classes), 1 / num_classes)))
        except self._tf.errors.OpError as error:
            raise ConfigError(
                [f"augment.layers: cannot run on images of {image_size} px: {first_line(error)}"]
            ) from error
        if not (images.isfinite().all() and targets.isfinite().all()):
            raise ConfigError(["augment.layers: give values that are no numbers; change their arguments"])

    def __call__(self, batch: Plain) -> tuple[Tensor, Tensor]:
        """Returns one batch as `stream` would yield it."""
        (changed,) = self.stream(iter([batch]))
        return changed

    def stream(self, batches: Iterator[Plain]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the augmented batches, in order, computed ahead in tensorflow's threads.

        Args:
            batches: one other thread pulls from it, ahead of what is yielded, until this generator is closed.

        Returns:
            Images, float32 in 0 to 255, and targets, float32, mixed if the images are; both on the device.

        Raises:
            Exception: an error of `batches`, after the batches before it have been yielded.
        """
        source = _Source(batches)
        tf = self._tf
        options = tf.data.Options()
        options.deterministic = True
        dataset = tf.data.Dataset.from_generator(source, output_signature=self._signature)
        dataset = dataset.map(self._changed, num_parallel_calls=_THREADS, deterministic=True)
        dataset = dataset.prefetch(_AHEAD).with_options(options)
        try:
            for images, targets in dataset:
                yield self._own(images), self._own(targets)
        finally:
            source.close()
        if source.error is not None:
            raise source.error

    def _own(self, tensor: Any) -> Tensor:
        return torch.from_numpy(tensor.numpy()).to(self._device)


class _Source:
    """An iterator that tensorflow pulls from in its own thread, and that its owner can stop.

    Attributes:
        error: the iterator's exception, kept because tensorflow would wrap it in its own.
    """

    def __init__(self, batches: Iterator[Plain]) -> None:
        self._batches = batches
        self._lock = threading.Lock()
        self._closed = False
        self.error: BaseException | None = None

    def __call__(self) -> Iterator[Any]:
        while True:
            with self._lock:
                if self._closed:
                    return
                try:
                    key, images, targets = next(self._batches)
                except StopIteration:
                    return
                except BaseException as error:
                    self.error = error
                    return
            yield np.array(key, np.int64), images.cpu().numpy(), targets.cpu().numpy()

    def close(self) -> None:
        """Stops the iterator, after the batch in progress, if any."""
        with self._lock:
            self._closed = True
