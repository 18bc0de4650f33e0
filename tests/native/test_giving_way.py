"""Threads give way while other processes compute, without a change to any result."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from kcv.native import giving_way
from kcv.native.giving_way import IdleTeams, OtherLoad, busy_seconds, follow_load, look

LINUX = pytest.mark.skipif(not giving_way._STAT.is_file(), reason="needs Linux")

STAT = """cpu  1000 10 500 9000 70 5 5 0 0 0
cpu0 600 10 300 4000 50 5 5 7 0 0
cpu1 400 0 200 5000 20 0 0 9 0 0
intr 63108222 0 0
ctxt 12345
"""


def test_time_of_the_named_cores_is_counted_but_not_idle_or_stolen_time() -> None:
    assert busy_seconds(STAT, {0}) == pytest.approx(9.2)
    assert busy_seconds(STAT, {0, 1}) == pytest.approx(15.2)
    assert busy_seconds(STAT, {7}) == 0


def test_the_load_of_others_is_what_is_left_of_the_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(giving_way, "bound_cores", lambda: {0, 1})
    busy, own, now = 0, 0.0, 0.0
    load = OtherLoad(lambda: f"cpu0 {busy} 0 0 0 0 0 0\n", lambda: own, lambda: now)
    busy, own, now = 300, 1.0, 2.0
    assert load() == pytest.approx(1.0)  # 3 s, one of them our own, in 2 s
    busy, own, now = 400, 2.5, 3.0
    assert load() == 0  # the two clocks do not agree to the tick
    busy, now = 450, 4.0
    assert load() == pytest.approx(0.5)


@pytest.fixture
def two_threads() -> Iterator[None]:
    if len(giving_way.bound_cores()) < 2:
        pytest.skip("one core: no thread spins there")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class Noted(IdleTeams):
    """Teams that are only noted."""

    def __init__(self) -> None:
        super().__init__()
        self.is_present = False

    @property
    def present(self) -> bool:
        return self.is_present

    def set(self, present: bool) -> None:
        self.is_present, self.were_present = present, True


def test_threads_give_way_while_others_compute_and_this_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "kcv.native.giving_way")
    teams, seen = Noted(), []
    for others in (0.0, 0.2, 0.3, 0.15, 0.05, 0.2, 1.5, 2.0, 0.0):
        look(teams, others, logging.INFO)
        seen.append(teams.present)
    assert seen == [False, False, True, True, False, False, True, True, False]
    cores = len(giving_way.bound_cores())
    assert [record.getMessage() for record in caplog.records] == [
        f"other processes use 0.3 of {cores} cores (kcv's own workers count too); threads give way to them"
    ]


@LINUX
@pytest.mark.serial
@pytest.mark.usefixtures("two_threads")
def test_a_thread_that_waits_uses_no_processor_while_there_are_idle_teams() -> None:
    if any(thread.name == "follow load" for thread in threading.enumerate()):
        pytest.skip("an earlier test of this process trained with two threads, which may give way by themselves")
    numbers, teams = torch.zeros(1 << 20), IdleTeams()

    def used() -> float:
        """Seconds of processor time for short loops with pauses, in which the other threads of the team wait."""
        began = time.process_time()
        for _ in range(100):
            numbers.add_(1)
            time.sleep(0.002)
        return time.process_time() - began

    used()
    spinning = used()
    teams.set(True)
    used()
    waiting = used()
    teams.set(False)
    assert not teams.present
    again = used()
    assert waiting < 0.6 * spinning and waiting < 0.6 * again


@LINUX
@pytest.mark.usefixtures("two_threads")
def test_results_are_the_same_to_the_bit() -> None:
    images = torch.randn(16, 8, 24, 24, generator=torch.Generator().manual_seed(0))
    kernel = torch.randn(16, 8, 3, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()

    def gradient() -> torch.Tensor:
        (result,) = torch.autograd.grad(torch.nn.functional.conv2d(images, kernel).square().sum(), kernel)
        return result

    teams = IdleTeams()
    before = gradient()
    teams.set(True)
    during = gradient()
    teams.set(False)
    assert torch.equal(before, during)


@pytest.mark.parametrize("content", [PermissionError(13, "Permission denied"), "\n"], ids=["closed", "of another form"])
def test_counts_that_cannot_be_read_are_no_error(
    content: Exception | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Counts(type(Path())):  # type: ignore[misc]
        def read_text(self, *_: object, **__: object) -> str:
            if isinstance(content, str):
                return content
            raise content

    (tmp_path / "stat").touch()
    monkeypatch.setattr(giving_way, "_STAT", Counts(tmp_path / "stat"))
    monkeypatch.setattr(giving_way, "_followed_by", None)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    failed: list[object] = []
    monkeypatch.setattr(threading, "excepthook", failed.append)
    before = set(threading.enumerate())
    follow_load()
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive()
    assert failed == []


@LINUX
def test_the_load_is_followed_once_per_process(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    class Started:
        def __init__(self, **options: object) -> None:
            started.append(options["name"])

        def start(self) -> None:
            pass

    monkeypatch.setattr(giving_way.threading, "Thread", Started)
    monkeypatch.setattr(giving_way, "_followed_by", None)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    follow_load()
    assert started == []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    follow_load()
    follow_load()
    assert started == ["follow load"]
    monkeypatch.setattr(giving_way.os, "getpid", lambda: -1)  # a forked child
    follow_load()
    assert len(started) == 2


def test_counts_of_another_form_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(giving_way, "_INTERVAL_S", 0.0)
    teams = Noted()

    def load() -> float:
        if teams.present:
            raise ValueError("not enough values to unpack")
        return 1.0

    giving_way._follow(teams, lambda: load, logging.DEBUG)
    assert not teams.present
