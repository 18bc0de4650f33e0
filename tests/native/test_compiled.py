from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch

from kcv.native.compiled import MEASURED, WARM_UP, Compiled

STEPS = WARM_UP + MEASURED


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def program(clock: Clock, seconds: float, calls: list[str], name: str) -> Callable[..., Any]:
    def run(x: torch.Tensor, *, training: bool) -> torch.Tensor:
        clock.now += seconds
        calls.append(name)
        return x

    return run


def drive(compiled: Compiled, steps: int) -> None:
    for _ in range(steps):
        compiled(torch.zeros(1), training=True)
        compiled.step_done()


@pytest.mark.parametrize(("plain", "fast", "kept"), [(2.0, 1.0, "compiled"), (1.0, 2.0, "plain")])
def test_the_faster_one_is_kept(plain: float, fast: float, kept: str, caplog: pytest.LogCaptureFixture) -> None:
    clock, calls = Clock(), list[str]()
    choice = Compiled(
        program(clock, plain, calls, "plain"),
        compile=lambda _: program(clock, fast, calls, "compiled"),
        wait=lambda: None,
        clock=clock,
    )
    with caplog.at_level(logging.INFO, "kcv"):
        drive(choice, 2 * STEPS)
    assert calls == ["plain"] * STEPS + ["compiled"] * STEPS
    assert choice.settled
    assert f"{plain / fast:.2f}x" in caplog.text
    drive(choice, 1)
    assert calls[-1] == kept


def test_a_compiler_that_fails_costs_no_step(caplog: pytest.LogCaptureFixture) -> None:
    clock, calls = Clock(), list[str]()

    def failing(x: torch.Tensor, *, training: bool) -> torch.Tensor:
        raise RuntimeError("no compiler here\nand a long trace")

    choice = Compiled(program(clock, 1.0, calls, "plain"), compile=lambda _: failing, wait=lambda: None, clock=clock)
    with caplog.at_level(logging.WARNING, "kcv"):
        drive(choice, STEPS + 2)
    assert calls == ["plain"] * (STEPS + 2)
    assert choice.settled
    (record,) = caplog.records
    assert record.getMessage() == "torch.compile failed (no compiler here); the program runs as it is"


def test_inference_between_steps_is_not_measured() -> None:
    clock, calls = Clock(), list[str]()
    choice = Compiled(
        program(clock, 1.0, calls, "plain"),
        compile=lambda _: program(clock, 0.5, calls, "compiled"),
        wait=lambda: None,
        clock=clock,
    )
    drive(choice, STEPS)
    choice(torch.zeros(1), training=False)
    assert calls[-1] == "plain"
    choice.step_done()
    drive(choice, STEPS)
    assert choice.settled


def test_the_device_is_waited_for_only_until_the_choice_is_made() -> None:
    clock, calls, waits = Clock(), list[str](), list[int]()
    choice = Compiled(
        program(clock, 1.0, calls, "plain"),
        compile=lambda run: run,
        wait=lambda: waits.append(1),
        clock=clock,
    )
    drive(choice, 2 * STEPS)
    before = len(waits)
    drive(choice, 5)
    assert len(waits) == before
