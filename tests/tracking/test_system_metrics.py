from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable, Mapping

import pytest

from kcv.tracking import Tracker
from kcv.tracking.system_metrics import SystemMetrics

pytestmark = pytest.mark.skipif(importlib.util.find_spec("psutil") is None, reason="needs kcv[system-metrics]")

Until = Callable[[Callable[[], object]], None]
Messages = Callable[[], list[str]]


class Kept(Tracker):
    def __init__(self, fault: Exception | None = None) -> None:
        self.samples: list[tuple[int, dict[str, float]]] = []
        self.fault = fault

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        if self.fault is not None:
            raise self.fault
        self.samples.append((step, dict(metrics)))


def is_over() -> bool:
    return not any(thread.name == "kcv-system-metrics" for thread in threading.enumerate())


def test_cpu_and_memory_are_sampled_while_a_run_goes_on(monkeypatch: pytest.MonkeyPatch, until: Until) -> None:
    monkeypatch.setattr("kcv.tracking.system_metrics.SECONDS", 0.02)
    tracker = Kept()
    with SystemMetrics(tracker, offset=1000.0):
        until(lambda: len(tracker.samples) > 2)
    until(is_over)
    steps = [step for step, _ in tracker.samples]
    assert steps == sorted(steps) and steps[0] >= 1000
    for _, sample in tracker.samples:
        assert all(name.startswith("system/") for name in sample)
        assert 0 < sample["system/system_memory_usage_percentage"] <= 100
        assert 0 < sample["system/process_memory_usage_megabytes"] < sample["system/system_memory_usage_megabytes"]
        assert 0 <= sample["system/cpu_utilization_percentage"] <= 100


def test_a_short_run_has_one_sample(until: Until) -> None:
    tracker = Kept()
    with SystemMetrics(tracker):
        pass
    until(is_over)
    assert len(tracker.samples) == 1


def test_a_fault_in_measuring_is_told_and_costs_nothing(messages: Messages, until: Until) -> None:
    with SystemMetrics(Kept(RuntimeError("nobody thought of it"))):
        pass
    until(is_over)
    assert messages() == ["tracking.system_metrics: stopped, the training goes on: nobody thought of it"]
