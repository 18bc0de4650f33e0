"""The queue between requests and workers: bounded, in order, and cleared of requests whose clients are gone."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from kcv.serving.model import Version
from kcv.serving.problems import Problem, busy


@dataclass(frozen=True, slots=True)
class HeatMap:
    """Where a model looks in an image.

    Attributes:
        pixels: the image at the model's size, uint8 [size, size, 3].
        heat: float32 [size, size] in 0-1.
        position: the explained class.
        scores: the probabilities, float32 [classes].
    """

    pixels: NDArray[np.uint8]
    heat: NDArray[np.float32]
    position: int
    scores: NDArray[np.float32]


Result: TypeAlias = NDArray[np.float32] | HeatMap | Problem
"""The probabilities of an image, float32 [classes], or its heat map; or why there are none."""


@dataclass(eq=False, slots=True)
class Job:
    """The images of one request.

    Attributes:
        version: the version of the model that classifies them.
        images: encoded images, or pixels, uint8 [height, width, 3].
        deadline: the time (`time.monotonic`) after which no image is begun.
        done: has the results, in the order of the images, once all are there.
        explains: whether heat maps are wanted, which come with the probabilities.
        position: the class to explain; None for the most probable one.
        results: those that are there; filled by the thread of the event loop.
        left: the number of results that are missing.
        given_up: whether nobody waits for the results any more. Workers read it, and skip the images.
    """

    version: Version
    images: list[bytes | NDArray[np.uint8]]
    deadline: float
    done: asyncio.Future[list[Result]]
    explains: bool = False
    position: int | None = None
    results: list[Result | None] = field(default_factory=list)
    left: int = 0
    given_up: bool = False

    def __post_init__(self) -> None:
        self.results = [None] * len(self.images)
        self.left = len(self.images)

    @property
    def is_wanted(self) -> bool:
        """Whether its images are worth a worker's time."""
        return not self.given_up and time.monotonic() < self.deadline

    def finish(self, position: int, result: Result) -> None:
        """Stores a result; called by the thread of the event loop."""
        self.results[position] = result
        self.left -= 1
        if not self.left and not self.done.done():
            self.done.set_result([result for result in self.results if result is not None])


Task: TypeAlias = tuple[Job, int]
"""A job and the position of one of its images."""


_NEWEST = 0.2
"""The weight of the newest batch in the moving average of the time per image."""


class Queue:
    """Images that wait for workers, bounded in number and in the time that they would wait.

    Args:
        most: the most images that wait.
        workers: the number of threads that take them.
        seconds: how long an image may be expected to wait: what is accepted must be answered in time.
    """

    def __init__(self, most: int, workers: int, seconds: float) -> None:
        self.most = most
        self._workers, self._most_seconds = workers, seconds
        self._image_seconds = 0.0
        self._idle = 0
        self._tasks: deque[Task] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        return len(self._tasks)

    def put(self, job: Job) -> None:
        """Adds all images of a job, or none.

        Raises:
            Problem: 413 where the queue could never hold the job, 503 where it is full now.
        """
        count = len(job.images)
        if count > self.most:
            raise Problem(413, f"{count:,} images in one request are more than the allowed {self.most:,}.")
        with self._changed:
            if self._closed:
                raise busy("the server is stopping.")
            waiting = len(self._tasks)
            if waiting + count > self.most:
                raise busy("too many images wait to be classified; try again.")
            expected = waiting * self._image_seconds / self._workers
            if expected > self._most_seconds:
                raise busy("too many images wait to be classified in time; try again.", math.ceil(expected))
            self._tasks.extend((job, position) for position in range(count))
            self._changed.notify(count)

    def take(self) -> list[Task]:
        """Waits for images of one model, and takes them: no more than a fair share for each idle worker.

        Nothing waits for a batch to fill. Where many images wait, batches are large; where few do, they are small.

        Returns:
            At least one task, all of the same version of a model and of one kind; empty if the queue is closed.
        """
        with self._changed:
            self._idle += 1
            self._changed.wait_for(lambda: self._tasks or self._closed)
            share = math.ceil(len(self._tasks) / self._idle)
            self._idle -= 1
            if not self._tasks:
                return []
            first = self._tasks[0][0]
            limit = min(share, first.version.batch)
            taken: list[Task] = []
            others: list[Task] = []
            while self._tasks and len(taken) < limit:
                task = self._tasks.popleft()
                same = task[0].version is first.version and task[0].explains == first.explains
                (taken if same else others).append(task)
            self._tasks.extendleft(reversed(others))
            return taken

    def took(self, images: int, seconds: float) -> None:
        """Notes how long a worker took for a batch, from which the wait of later images is expected."""
        with self._changed:
            newest = seconds / images
            self._image_seconds += (_NEWEST if self._image_seconds else 1.0) * (newest - self._image_seconds)

    def close(self) -> None:
        """Lets workers finish what waits, and then end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
