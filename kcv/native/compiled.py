"""Whether a compiled program is the faster one: measured during the first training steps, not assumed."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from kcv.errors import first_line

_log = logging.getLogger(__name__)

WARM_UP, MEASURED = 3, 10
"""Steps of each candidate that do not count (the compiler runs in them), and steps that do."""

Run = Callable[..., Any]


class Compiled:
    """Runs training steps through a program as it is, then through its compiled form, and stays with the faster.

    A step is more than the program (loss, gradients, optimizer), and compiling changes its gradients too: so the owner
    says when a step is over, and whole steps are compared. Where the compiler fails, the program as it is stays.

    Args:
        program: a callable of tensors.
        compile: makes its compiled form, by default `torch.compile`.
        wait: waits until the device is idle.
        clock: returns seconds.

    Attributes:
        settled: whether the choice is made.
    """

    def __init__(
        self,
        program: Run,
        *,
        compile: Callable[[Run], Run] = torch.compile,
        wait: Callable[[], None] = torch.cuda.synchronize,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._program = program
        self._current = program
        self._compile = compile
        self._wait = wait
        self._clock = clock
        self._seconds: tuple[list[float], list[float]] = ([], [])
        self._candidate = 0
        self._began: float | None = None
        self.settled = False

    def __call__(self, *tensors: torch.Tensor, training: bool) -> Any:
        """Runs one pass. Inference always runs the program as it is."""
        if not training:
            return self._program(*tensors, training=False)
        if not self.settled:
            self._wait()
            self._began = self._clock()
        if self._current is self._program:
            return self._program(*tensors, training=True)
        try:
            return self._current(*tensors, training=True)
        except Exception as error:  # the compiler raises whatever its many parts raise
            if self.settled:
                raise
            _log.warning("torch.compile failed (%s); the program runs as it is", first_line(error))
            self._settle(self._program)
            return self._program(*tensors, training=True)

    def step_done(self) -> None:
        """Ends a training step; chooses when there are enough."""
        if self.settled or self._began is None:
            return
        self._wait()
        seconds = self._seconds[self._candidate]
        seconds.append(self._clock() - self._began)
        self._began = None
        if len(seconds) < WARM_UP + MEASURED:
            return
        if self._candidate == 0:
            self._candidate, self._current = 1, self._compile(self._program)
            return
        plain, compiled = (statistics.median(values[WARM_UP:]) for values in self._seconds)
        faster = compiled < plain
        _log.info(
            "compiled   %.2fx the speed of the program as it is; %s", plain / compiled, "kept" if faster else "not kept"
        )
        self._settle(self._current if faster else self._program)

    def _settle(self, program: Run) -> None:
        self._current, self.settled = program, True
