"""The threads that decode, resize and classify: one per core, each with what waits when it is free."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kcv import images
from kcv.errors import ImageError, KcvError
from kcv.inference.onnx_model import OnnxModel
from kcv.serving.metrics import Metrics
from kcv.serving.model import Version
from kcv.serving.problems import Problem, unreadable
from kcv.serving.queue import HeatMap, Queue, Result, Task

_log = logging.getLogger(__name__)

NO_HEATMAPS = "the model has no heat maps; `kcv export --heatmaps` adds them."
_NICER = 5
_LATE = "was not classified in time; try again."


class Workers:
    """Threads that take images from a queue and give their results to the event loop.

    Args:
        queue: the queue.
        count: the number of threads.
        max_pixels: the most pixels of an image.
        loop: the event loop of the requests.
        metrics: counts batches and predictions.
    """

    def __init__(
        self, queue: Queue, count: int, *, max_pixels: int, loop: asyncio.AbstractEventLoop, metrics: Metrics
    ) -> None:
        self._queue, self._max_pixels, self._loop, self._metrics = queue, max_pixels, loop, metrics
        self._threads = [threading.Thread(target=self._work, name=f"kcv-{n}", daemon=True) for n in range(count)]
        for thread in self._threads:
            thread.start()

    def close(self, seconds: float) -> bool:
        """Ends the threads after they have finished what waits; returns whether they ended within some seconds."""
        self._queue.close()
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        _give_way()
        while tasks := self._queue.take():
            began = time.perf_counter()
            wanted = sum(job.is_wanted for job, _ in tasks)  # the others cost nothing
            try:
                work = self._explained if tasks[0][0].explains else self._classified
                results = work(tasks[0][0].version, tasks)
            except Exception:  # a bug, which must not end the thread
                _log.exception("images could not be classified")
                results = [Problem(500, "the image could not be classified.")] * len(tasks)
            if wanted:
                self._queue.took(wanted, time.perf_counter() - began)
            try:
                self._loop.call_soon_threadsafe(_deliver, tasks, results)
            except RuntimeError:  # the event loop has ended, and nobody waits
                return

    def _classified(self, version: Version, tasks: Sequence[Task]) -> list[Result]:
        """Returns the results of a batch. One image that cannot be read leaves the others as they are."""
        decoded = [self._decoded(version, job.images[at]) if job.is_wanted else _late() for job, at in tasks]
        pixels = [image for image in decoded if not isinstance(image, Problem)]
        if not pixels:
            return [image for image in decoded if isinstance(image, Problem)]
        began = time.perf_counter()
        try:
            rows = iter(version.classifier.predict_pixels(np.stack(pixels)))
        except KcvError as error:
            _log.error("%s", error)
            failed = Problem(500, "the model cannot be run.")
            return [image if isinstance(image, Problem) else failed for image in decoded]
        results: list[Result] = [image if isinstance(image, Problem) else next(rows) for image in decoded]
        answers = [result for result in results if isinstance(result, np.ndarray)]
        self._metrics.classified(version, np.stack(answers), time.perf_counter() - began)
        return results

    def _explained(self, version: Version, tasks: Sequence[Task]) -> list[Result]:
        """Returns the heat maps of a batch, one image at a time: each may ask for another class."""
        model = version.classifier
        results: list[Result] = []
        for job, at in tasks:
            image = self._decoded(version, job.images[at]) if job.is_wanted else _late()
            if isinstance(image, Problem) or not isinstance(model, OnnxModel):
                results.append(image if isinstance(image, Problem) else Problem(501, NO_HEATMAPS))
                continue
            try:
                found = model.explain(image[None], job.position)
            except KcvError as error:
                _log.error("%s", error)
                results.append(Problem(500, "the model cannot be run."))
                continue
            results.append(HeatMap(image, found.maps[0], int(found.classes[0]), found.probabilities[0]))
        return results

    def _decoded(self, version: Version, image: bytes | NDArray[np.uint8]) -> NDArray[np.uint8] | Problem:
        model = version.classifier
        try:
            return images.load(image, model.image_size, model.resize, max_pixels=self._max_pixels)
        except ImageError as error:
            return unreadable(error)


def _give_way() -> None:
    """Lets the thread of the requests go first where this one wants the same core: to accept and to refuse is short."""
    if sys.platform == "linux":  # elsewhere, a niceness is that of a whole process
        thread = threading.get_native_id()
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _NICER)


def _late() -> Problem:
    return Problem(503, _LATE, {"Retry-After": "1"})


def _deliver(tasks: Sequence[Task], results: Sequence[Result]) -> None:
    for (job, position), result in zip(tasks, results, strict=True):
        job.finish(position, result)
