"""Chooses between a program and its compiled form by timing both during the first training steps."""

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
"""Steps per candidate that are not timed (compilation happens in them), and steps that are."""

Run = Callable[..., Any]


class Compiled:
    """Runs training steps through a program, then through its compiled form, and keeps the faster one.

    A step is more than the program (loss, gradients, optimizer), and compilation changes its gradients too. The owner
    therefore reports the end of each step, and whole steps are compared. If compilation fails, the original is kept.

    Args:
        program: a callable that takes tensors.
        compile: returns the compiled form, by default `torch.compile`.
        wait: waits until the device is idle.
        clock: returns seconds.

    Attributes:
        settled: whether the choice has been made.
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
        """Runs one pass. Inference always uses the uncompiled program."""
        if not training:
            return self._program(*tensors, training=False)
        if not self.settled:
            self._wait()
            self._began = self._clock()
        if self._current is self._program:
            return self._program(*tensors, training=True)
        try:
            return self._current(*tensors, training=True)
        except Exception as error:  # the compiler may raise anything
            if self.settled:
                raise
            _log.warning("torch.compile failed (%s); the program runs as it is", first_line(error))
            self._settle(self._program)
            return self._program(*tensors, training=True)

    def step_done(self) -> None:
        """Marks the end of a training step; makes the choice once enough steps are timed."""
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
