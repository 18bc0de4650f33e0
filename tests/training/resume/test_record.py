"""What differs from how a run began is told at readable length, whatever the record of a stranger holds."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from kcv.config import Config
from kcv.errors import ConfigError, DataError, DeviceError
from kcv.training.resume.record import Record, differences

LONG = "x" * 100_000


def record(**changes: Any) -> Record:
    fields = {"config": {}, "fingerprint": "f", "counts": {}, "device": "cpu", "precision": "float32"}
    return Record(**{**fields, "surroundings": {}, **changes})


@pytest.mark.parametrize("found", [{LONG: 1}, {"train.epochs": LONG}, {"train.epochs": [LONG]}, {"\x1b[2J" + LONG: {}}])
def test_a_key_or_a_value_of_any_length_is_told_in_a_short_line(found: dict[str, Any]) -> None:
    config = Config.load(**{"data": "digits"})
    with pytest.raises(ConfigError, match="but the run began with") as caught:
        record(config={**config.flatten(), **found}).require(config)
    assert len(str(caught.value)) < 400
    assert "\x1b" not in str(caught.value)


def test_of_very_many_differences_the_first_are_told_and_the_others_counted() -> None:
    config = Config.load(**{"data": "digits", "epochs": 7})
    lines = differences(config, {**config.flatten(), "train.epochs": 9, **{f"k{i}": i for i in range(9999)}}, "then")
    assert lines[0] == "train.epochs: received 7, but then 9."
    assert len(lines) < 100
    assert lines[-1].endswith("more problems.")


def test_a_machine_of_any_description_is_told_in_a_short_line(caplog: pytest.LogCaptureFixture) -> None:
    here = {"device": "cpu", "precision": "float32", "python": "3.12"}
    with pytest.raises(DeviceError, match="the run began with device=xxx") as caught:
        record(device=LONG).require_machine(here)
    assert len(str(caught.value)) < 500
    with caplog.at_level(logging.WARNING, "kcv"):
        record(surroundings={"python": LONG, LONG: 1, **{f"k{i}": i for i in range(9999)}}).require_machine(here)
    (message,) = caplog.messages
    assert message.startswith("the run goes on, but not bit for bit: python 3.12 instead of xxx")
    assert message.endswith("more")
    assert len(message) < 3000


def test_splits_of_any_name_and_number_are_told_in_a_short_line() -> None:
    class Split(list[int]):
        by_row_group = False

    now: Any = SimpleNamespace(name="digits", fingerprint="g", train=Split([1, 2]), val=None, test=None)
    with pytest.raises(
        DataError, match="digits has changed since the run began: 2 train images, 3 then; 0 xxx"
    ) as caught:
        record(counts={"train": 3, LONG: 10**4000, **{f"k{i}": 1 for i in range(9999)}}).require_data(now)
    assert len(str(caught.value)) < 3000
