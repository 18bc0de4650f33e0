"""Decodes all images of a split into memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from kcv import images
from kcv.common.cores import usable_cores
from kcv.common.progress import Progress
from kcv.data.dataset import Encoded, Pixels, Samples
from kcv.data.objects.images import ObjectImages
from kcv.data.row_images import RowImages
from kcv.errors import DataError, ImageError

CHUNK = 256
"""The number of images that a thread decodes at a time."""


def _chunks(samples: Samples) -> Iterator[Sequence[Encoded]]:
    parts = [np.arange(i, min(i + CHUNK, len(samples))) for i in range(0, len(samples), CHUNK)]
    if isinstance(samples.images, RowImages):
        yield from samples.images.batches(parts)
    else:
        yield from (samples.images[part[0] : part[-1] + 1] for part in parts)


def decode(samples: Samples, size: int, resize: str) -> Pixels:
    """Decodes all images into one array, uint8 [n, size, size, 3].

    Raises:
        DataError: images cannot be read (the message names the first three), or they do not fit into memory.
    """
    try:
        return _decode(samples, size, resize)
    except MemoryError as error:
        need = len(samples) * size * size * 3 / 2**20
        raise DataError(
            f"{len(samples):,} images of {size} px need {need:,.0f} MB, and there is not as much memory; a smaller "
            "data.memory_budget_mb leaves them on the disk"
        ) from error


def _decode(samples: Samples, size: int, resize: str) -> Pixels:
    pixels = np.empty((len(samples), size, size, 3), np.uint8)

    def decode_from(start: int, encoded: Sequence[Encoded]) -> list[str]:
        failures = []
        if isinstance(encoded, ObjectImages):
            encoded = encoded.ahead()
        for i in range(len(encoded)):
            try:
                pixels[start + i] = images.load(encoded[i], size, resize, name=samples.names[start + i])
            except ImageError as error:
                failures.append(str(error))
        progress.advance(len(encoded))
        return failures

    failures: list[str] = []
    cores = usable_cores()
    with Progress(len(samples), "reading images") as progress, ThreadPoolExecutor(cores) as pool:
        waiting: deque[Future[list[str]]] = deque()
        start = 0
        for encoded in _chunks(samples):
            waiting.append(pool.submit(decode_from, start, encoded))
            start += len(encoded)
            if len(waiting) > 2 * cores:  # so that encoded images do not pile up
                failures += waiting.popleft().result()
        failures += [line for future in waiting for line in future.result()]
    if failures:
        shown = " ".join(failures[:3]) + (" ..." if len(failures) > 3 else "")
        raise DataError(f"{len(failures)} of {len(samples)} images cannot be read: {shown}")
    return pixels
