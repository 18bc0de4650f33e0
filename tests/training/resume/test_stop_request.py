"""Requests to stop, where several runs follow each other."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from kcv.training.resume.stop_request import StopRequest


def asked_after_the_last_step() -> None:
    """A run that is asked to stop when there is no further step that could heed it."""
    inner = StopRequest()
    with inner.listening(), inner.between_steps():
        os.kill(os.getpid(), signal.SIGTERM)
    assert inner.requested


def test_a_request_that_came_too_late_for_one_run_stops_the_next_ones() -> None:
    outer = StopRequest()
    with outer.listening():
        outer.raise_if_requested()
        asked_after_the_last_step()
        assert outer.requested
        with pytest.raises(KeyboardInterrupt):
            outer.raise_if_requested()
    before = signal.getsignal(signal.SIGTERM)
    asked_after_the_last_step()
    assert signal.getsignal(signal.SIGTERM) == before, "without an outer block the run has simply ended"


def test_between_two_runs_a_signal_stops_at_once() -> None:
    outer = StopRequest()
    with outer.listening(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_trial_in_folds_that_is_stopped_late_in_one_does_not_begin_the_next(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from kcv.config import Config
    from kcv.tasks import train, trial

    begun: list[Any] = []

    def run(config: Config, resume: object = None) -> None:
        begun.append(config.output_dir)
        asked_after_the_last_step()

    monkeypatch.setattr(train, "train", run)
    monkeypatch.setattr(sys, "argv", [*sys.argv])  # which a trial replaces
    configs = [Config.load(output_dir=str(tmp_path / name)).to_dict() for name in ("one", "two")]
    order = {"runs": [{"config": config, "resume": False} for config in configs]}
    assert trial._train(order) == ("stopped", "stopped")
    assert len(begun) == 1
