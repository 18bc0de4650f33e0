"""Validates the content of a checkpoint before training resumes from it.

Checksums show that a file is unchanged, but not who wrote it. So all of its content is checked: the tensors present,
the generator states, the callbacks' state, and whether all of it matches the step that the checkpoint claims.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kcv.common.untrusted import first_problem, refusing
from kcv.config import Config
from kcv.errors import DataError
from kcv.training.callbacks.logging import COLUMNS, is_figure_name
from kcv.training.loop import Stage, plan
from kcv.training.resume.record import Record
from kcv.training.resume.state import State, own_names
from kcv.training.resume.user_state import check_entries

_WORDS: Final = 624  # words in the state of a Mersenne Twister
_TENSOR = re.compile(
    r"(rank\d{1,6}/)?((model|optimizer|metrics|keras)/\d{5}|torch|cuda/\d{1,3})|numpy|python|user/\d{5}"
)
_MOST_COLUMNS: Final = 1000
_Count = Annotated[int, Field(ge=0)]
_Standing = Annotated[list[float], Field(min_length=2, max_length=2)] | tuple[float, float]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class _Best(_Part):
    best_epoch: _Count
    standing: _Standing | None = None
    best: float | None = None  # used instead in kcv 0.1.0


class _Clock(_Part):
    seconds: Annotated[float, Field(ge=0)]


class _History(_Part):
    rows: list[dict[str, float]]
    preparation: Annotated[float, Field(ge=0)] = 0.0


class _Patience(_Part):
    wait: _Count
    standing: _Standing | None = None
    best: float | None = None  # used instead in kcv 0.1.0, with the next field
    best_epoch: _Count = 0


class _User(_Part):
    name: Annotated[str, Field(max_length=1000)]
    state: dict[str, Any] | None


class _Callbacks(_Part):
    best: _Best
    clock: _Clock
    history: _History
    patience: _Patience | None = None
    user: Annotated[list[_User], Field(max_length=1000)] = []


class _Plain(_Part):
    """The non-tensor part of a state; see `kcv.training.resume.state.capture`."""

    rate: Annotated[float, Field(gt=0, le=1)]
    numpy: list[Any]
    python: list[Any]
    callbacks: _Callbacks
    processes: Annotated[int, Field(ge=1, le=10**6)] = 1


@dataclass(frozen=True)
class Plan:
    """The course of a training run according to its configuration.

    Attributes:
        stages: the stages of the run.
        steps: steps per epoch.
        patience: whether early stopping is enabled.
        counts_steps: whether the optimizer's first variable is its step count.
        callbacks: class names of the user's callbacks.
    """

    stages: tuple[Stage, ...]
    steps: int
    patience: bool
    counts_steps: bool
    callbacks: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: Config, record: Record) -> Plan:
        """Returns the plan of a run."""
        return cls(
            stages=plan(config),
            steps=-(-record.counts.get("train", 0) // config.data.batch_size),
            patience=config.train.patience is not None,
            counts_steps=record.precision != "mixed_float16",  # otherwise the loss scale comes first
            callbacks=tuple(record.callbacks),
        )

    def check(self, state: State) -> None:
        """Refuses a state that this training run cannot have reached.

        Raises:
            DataError: the message says what is wrong.
        """
        stage = next((stage for stage in self.stages if stage.first <= state.epoch < stage.end), None)
        if stage is None or not 0 <= state.step <= self.steps:
            raise DataError(f"epoch {state.epoch + 1}, step {state.step} is not in this run")
        plain = _parsed(state.plain)
        _check_memory(state, plain, must_wait=self.patience and stage.last)
        _check_tensors(state.tensors, plain.processes)
        check_entries([(entry.name, entry.state) for entry in plain.callbacks.user], self.callbacks, state.tensors)
        done = (state.epoch - stage.first) * self.steps + state.step
        counted = state.tensors.get("optimizer/00000")
        if self.counts_steps and (counted is None or counted.numel() != 1 or int(counted) != done):
            raise DataError(f"its optimizer was not at epoch {state.epoch + 1}, step {state.step}")
        with refusing("the random generators", DataError):
            _try_generators(state)


def _parsed(plain: Mapping[str, Any]) -> _Plain:
    try:
        return _Plain.model_validate(plain)
    except ValidationError as caught:
        raise DataError(first_problem(caught)) from None


def _check_memory(state: State, plain: _Plain, *, must_wait: bool) -> None:
    """Refuses callback state that is impossible at this step."""
    best, rows = plain.callbacks.best, plain.callbacks.history.rows
    if [row.get("epoch") for row in rows] != list(range(1, state.epoch + 1)):
        raise DataError(f"its history has {len(rows)} rows and was not written in epoch {state.epoch + 1}")
    further = {name for row in rows for name in row} - set(COLUMNS)
    if any(not row.keys() >= set(COLUMNS) for row in rows) or not all(map(is_figure_name, further)):
        raise DataError("its history has other columns")
    if len(further) > _MOST_COLUMNS:
        raise DataError(f"its history has more than {_MOST_COLUMNS:,} columns")
    compared = best.standing is not None or best.best is not None
    if best.best_epoch > state.epoch or not (bool(best.best_epoch) == bool(state.best) == compared):
        raise DataError(f"its best epoch cannot be {best.best_epoch}")
    if must_wait and plain.callbacks.patience is None:
        raise DataError("it does not say how long the training has waited for a better epoch")


def _check_tensors(tensors: Mapping[str, torch.Tensor], processes: int) -> None:
    """Refuses tensors with unknown names, and tensors whose shape or dtype differs between processes."""
    if unknown := next((name for name in tensors if not _TENSOR.fullmatch(name)), None):
        raise DataError(f"it holds {unknown[:40]!r}")
    own = own_names(tensors)
    if sum(name.startswith("rank") for name in tensors) != (processes - 1) * len(own):
        raise DataError(f"it does not hold the state of {processes} processes")
    for rank in range(1, processes):
        for name in own:
            one, other = tensors[name], tensors.get(f"rank{rank}/{name}")
            if other is None or (one.shape, one.dtype) != (other.shape, other.dtype):
                raise DataError(f"it does not hold the state of process {rank}")


def _try_generators(state: State) -> None:
    """Loads the states into new random generators; raises any error of theirs, or ValueError."""
    tensors = state.tensors
    for name in ("torch", *tensors):
        if name.endswith("torch"):
            torch.Generator().set_state(tensors[name])
        elif "cuda/" in name and torch.cuda.is_available():
            torch.Generator("cuda").set_state(tensors[name])
    _, position, has_gauss, _ = state.plain["numpy"]
    words = tensors["numpy"]
    # numpy accepts positions outside of its state and would read memory there.
    if not (0 <= position <= len(words) == _WORDS and has_gauss in (0, 1) and 0 <= words.min() <= words.max() < 2**32):
        raise ValueError("the state of numpy's generator is out of range")
    np.random.RandomState(0).set_state(state.numpy_generator())
    random.Random(0).setstate(state.python_generator())
    if tensors["keras/00000"].shape != (2,):
        raise ValueError("the seed of Keras has another shape")
