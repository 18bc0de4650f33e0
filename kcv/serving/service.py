"""The models that are served, and the way from images to probabilities."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kcv.common.cores import usable_cores
from kcv.serving.budget import Budget
from kcv.serving.exchange import Gone, read_body
from kcv.serving.metrics import Metrics
from kcv.serving.model import Served, Version
from kcv.serving.problems import Problem, busy
from kcv.serving.queue import HeatMap, Job, Queue, Result
from kcv.serving.settings import Settings
from kcv.serving.workers import Workers

if TYPE_CHECKING:
    from starlette.types import Receive, Scope

    from kcv.serving.feedback import Feedback

_log = logging.getLogger(__name__)

_WAITING = 0.5
"""The part of the timeout that an image may be expected to wait in the queue."""


class Service:
    """Models, a queue, and the workers that serve them. Made and used in the thread of the event loop.

    Args:
        models: at least one; the first answers where a request names none.
        settings: the limits.
        metrics: counts what happens.
        feedback: files what people say about answers; None if nobody may.

    Attributes:
        is_ready: whether new requests should come here; False from the moment the server is told to stop.
    """

    def __init__(
        self, models: Iterable[Served], settings: Settings, metrics: Metrics, feedback: Feedback | None = None
    ) -> None:
        self.settings = settings
        self.metrics = metrics
        self.feedback = feedback
        self.models = {served.name: served for served in models}
        self.budget = Budget(settings.queue_bytes)
        self.is_ready = True
        # A Keras model takes all cores for each batch; a second thread would only compete with the first.
        together = all(served.version.is_concurrent for served in self.models.values())
        count = usable_cores() if together else 1
        self.queue = Queue(settings.queue_images, count, settings.timeout * _WAITING)
        self._workers = Workers(
            self.queue,
            count,
            max_pixels=settings.max_pixels,
            loop=asyncio.get_running_loop(),
            metrics=metrics,
        )
        for served in self.models.values():
            metrics.loaded(served.version)
        metrics.watch("kcv_queue_images", "Images that wait for a worker", lambda: len(self.queue))
        metrics.watch("kcv_body_bytes", "Bytes of request bodies in memory", lambda: self.budget.held)

    def version(self, name: str | None = None) -> Version:
        """Returns the version of a model that answers now; the first model's without a name.

        Raises:
            Problem: 404, there is no such model.
        """
        if name is None:
            return next(iter(self.models.values())).version
        if name not in self.models:
            raise Problem(404, f"no model {name!r}; there are {', '.join(list(self.models)[:20])}.")
        return self.models[name].version

    async def body(self, scope: Scope, receive: Receive) -> bytes:
        """Reads the body of a request within the limits; see `read_body`."""
        settings = self.settings
        return await read_body(
            scope, receive, most=settings.max_bytes, seconds=settings.body_seconds, budget=self.budget
        )

    async def classify(
        self, version: Version, images: Sequence[bytes | NDArray[np.uint8]], receive: Receive
    ) -> list[Result]:
        """Classifies the images of one request.

        Args:
            version: the model.
            images: encoded images, or pixels, uint8 [height, width, 3].
            receive: tells when the client hangs up.

        Returns:
            The probabilities of each image, float32 [classes], or why there are none, in the order of the images.

        Raises:
            Problem: the queue is full, or the images were not classified in time.
            Gone: the client has hung up.
        """
        return await self._finished(Job(version, list(images), *self._times()), receive)

    async def explain(self, version: Version, image: bytes, position: int | None, receive: Receive) -> HeatMap:
        """Returns the heat map of an image for a class; None for the most probable one.

        Raises:
            Problem: as `classify`, or the image cannot be read, or the model has no heat maps.
            Gone: the client has hung up.
        """
        job = Job(version, [image], *self._times(), explains=True, position=position)
        (result,) = await self._finished(job, receive)
        if isinstance(result, Problem):
            raise result
        assert isinstance(result, HeatMap)
        return result

    def _times(self) -> tuple[float, asyncio.Future[list[Result]]]:
        """Returns the deadline of a job that begins now, and the future of its results."""
        return time.monotonic() + self.settings.timeout, asyncio.get_running_loop().create_future()

    async def _finished(self, job: Job, receive: Receive) -> list[Result]:
        """Queues a job and waits for its results, as long as its client does."""
        self.queue.put(job)
        watcher = asyncio.get_running_loop().create_task(_watch(job, receive))
        try:
            async with asyncio.timeout(self.settings.timeout):
                return await job.done
        except TimeoutError:
            raise busy("was not classified in time; try again.") from None
        finally:
            job.given_up = True
            watcher.cancel()

    async def reload(self, name: str) -> bool:
        """Opens the file of a model again, in a thread beside the event loop; returns whether it answers now."""
        served = self.models[name]
        done = await asyncio.get_running_loop().run_in_executor(None, served.reload)
        self.metrics.reloaded(name, done=done)
        if done:
            self.metrics.loaded(served.version)
        return done

    async def watch_files(self, seconds: float) -> None:
        """Reloads models whose files change, for as long as it runs.

        A file is opened when it has stayed as it is between two looks: one that is being copied is not whole yet.

        Args:
            seconds: the time between two looks.
        """
        loop = asyncio.get_running_loop()
        before: dict[str, object] = {}
        while True:
            await asyncio.sleep(seconds)
            for name, served in self.models.items():
                now = await loop.run_in_executor(None, served.look)
                if now != served.seen and now == before.get(name):
                    await self.reload(name)
                before[name] = now

    def close(self, seconds: float) -> bool:
        """Ends the workers after what waits; returns whether they ended within some seconds."""
        if self.feedback is not None:
            self.feedback.close()
        return self._workers.close(seconds)


async def _watch(job: Job, receive: Receive) -> None:
    """Gives a job up when the client hangs up."""
    while (await receive())["type"] != "http.disconnect":
        pass
    job.given_up = True
    if not job.done.done():
        job.done.set_exception(Gone())
