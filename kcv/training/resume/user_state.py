"""The state of the user's callbacks in a checkpoint: plain values and arrays, nothing executable.

`state_dict` may contain dicts with string keys, lists, tuples (restored as lists), strings, numbers, booleans, None,
and NumPy arrays or torch tensors of numbers (restored as NumPy arrays). Arrays are stored with the checkpoint's
tensors and replaced in the state by a number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import keras
import numpy as np
import torch
from torch import Tensor

from kcv.common.text import printable, shortened
from kcv.errors import DataError, UsageError
from kcv.training.resume.state import State

MOST_BYTES: Final = 64 * 2**20
"""Limit for all arrays and strings of one callback: a checkpoint is written every half minute."""
_MOST_VALUES: Final = 100_000
_DEEPEST: Final = 50
_MOST_BITS: Final = 1024  # in an integer
_ARRAY: Final = "__array__"
_KEY: Final = "user"


def keeps_state(callback: keras.callbacks.Callback) -> bool:
    """Whether a callback saves its state in checkpoints.

    Raises:
        UsageError: it has only one of the two methods.
    """
    found = [callable(getattr(callback, name, None)) for name in ("state_dict", "load_state_dict")]
    if any(found) and not all(found):
        has, lacks = ("state_dict", "load_state_dict") if found[0] else ("load_state_dict", "state_dict")
        raise UsageError(f"callbacks: {type(callback).__name__} has {has}, but not {lacks}")
    return all(found)


def check_state(callback: keras.callbacks.Callback) -> None:
    """Checks that a checkpoint can store a callback's current state.

    Raises:
        UsageError: it cannot be stored.
    """
    _Encoder(type(callback).__name__, 0).encode(callback.state_dict())


class UserState:
    """Saves and restores the state of the user's callbacks.

    Args:
        callbacks: in order.
    """

    def __init__(self, callbacks: Sequence[keras.callbacks.Callback] = ()) -> None:
        self._callbacks = tuple(callbacks)

    def add_to(self, state: State) -> State:
        """Returns a copy of a state that also contains the callbacks' state.

        Raises:
            UsageError: a callback's state cannot be stored in a checkpoint.
        """
        if not self._callbacks:
            return state
        entries: list[dict[str, Any]] = []
        tensors: dict[str, Tensor] = {}
        for callback in self._callbacks:
            name = type(callback).__name__
            kept = None
            if keeps_state(callback):
                encoder = _Encoder(name, len(tensors))
                kept = encoder.encode(callback.state_dict())
                tensors |= encoder.tensors
            entries.append({"name": name, "state": kept})
        callbacks = {**state.plain["callbacks"], _KEY: entries}
        return replace(state, tensors={**state.tensors, **tensors}, plain={**state.plain, "callbacks": callbacks})

    def load_from(self, state: State) -> None:
        """Restores the callbacks' state."""
        entries = state.plain["callbacks"].get(_KEY, ())
        for callback, entry in zip(self._callbacks, entries, strict=True):
            if keeps_state(callback) and entry["state"] is not None:
                callback.load_state_dict(decode(entry["state"], state.tensors))


def check_entries(entries: Sequence[tuple[str, Any]], names: Sequence[str], tensors: Mapping[str, Tensor]) -> None:
    """Refuses checkpoint entries that do not match a run's callbacks.

    Args:
        entries: names and encoded states.
        names: class names of the callbacks that the run began with.
        tensors: the checkpoint's tensors.

    Raises:
        DataError: the message says what is wrong.
    """
    if [name for name, _ in entries] != list(names):
        raise DataError("it is of other callbacks than the run began with")
    known = {name for name in tensors if name.startswith(f"{_KEY}/")}
    used: list[str] = []
    for _, kept in entries:
        _count(kept, used)
    if len(used) != len(set(used)) or set(used) != known:
        raise DataError("the arrays of its callbacks are not those that they name")


def decode(kept: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Decodes a callback's state as encoded by `UserState.add_to`."""
    if isinstance(kept, dict):
        if _ARRAY in kept:
            return tensors[_tensor_name(kept[_ARRAY])].numpy().copy()
        return {key: decode(value, tensors) for key, value in kept.items()}
    return [decode(value, tensors) for value in kept] if isinstance(kept, list) else kept


def _tensor_name(number: int) -> str:
    return f"{_KEY}/{number:05d}"


def _count(kept: Any, used: list[str]) -> None:
    """Collects the arrays used in an encoded state; refuses a state that is too large or too deep."""
    pending, count = [(kept, 0)], 0
    while pending:
        node, depth = pending.pop()
        count += 1
        if count > _MOST_VALUES or depth > _DEEPEST:
            raise DataError("what its callbacks keep is too large")
        if isinstance(node, dict) and _ARRAY in node:
            number = node[_ARRAY]
            if len(node) != 1 or type(number) is not int or number < 0:
                raise DataError("what its callbacks keep names no array")
            used.append(_tensor_name(number))
        elif isinstance(node, dict | list):
            pending += [(child, depth + 1) for child in (node.values() if isinstance(node, dict) else node)]


class _Encoder:
    """Splits a state into plain values and tensors.

    Args:
        name: class name of the callback, for messages.
        first: the number of its first array.
    """

    def __init__(self, name: str, first: int) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._name = name
        self._first = first
        self._values = self._bytes = 0

    def encode(self, state: Any) -> Any:
        """Returns the state as a copy in plain values; its arrays are added to `tensors`."""
        if not isinstance(state, Mapping):
            raise UsageError(f"callbacks: state_dict of {self._name} gives a {type(state).__name__}, not a dict")
        return self._encoded(state, "", 0)

    def _encoded(self, value: Any, where: str, depth: int) -> Any:
        self._values += 1
        if self._values > _MOST_VALUES or depth > _DEEPEST:
            most = f"{_MOST_VALUES:,} values, {_DEEPEST} levels deep"
            raise UsageError(f"callbacks: {self._name} keeps more than {most}; keep numbers in an array")
        if isinstance(value, Mapping):
            for key in value:
                if not isinstance(key, str) or key == _ARRAY:
                    self._refuse(where, f"the key {shortened(printable(repr(key)), 60)}", "text keys")
            return {key: self._encoded(child, f"{where}[{key!r}]", depth + 1) for key, child in value.items()}
        if isinstance(value, list | tuple):
            return [self._encoded(child, f"{where}[{place}]", depth + 1) for place, child in enumerate(value)]
        if isinstance(value, np.ndarray | Tensor):
            return self._array(value, where)
        return self._plain(value.item() if isinstance(value, np.generic) else value, where)

    def _plain(self, value: Any, where: str) -> Any:
        if isinstance(value, str):
            self._weigh(len(value))
        elif isinstance(value, int) and value.bit_length() > _MOST_BITS:
            self._refuse(where, "a number of too many digits", "smaller ones")
        elif not (value is None or isinstance(value, int | float)):
            self._refuse(where, f"a {type(value).__name__}", "plain values and arrays of numbers")
        return value

    def _array(self, value: Any, where: str) -> dict[str, int]:
        try:
            tensor = value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else torch.tensor(value)
            tensor.numpy()  # dtypes that NumPy lacks could not be restored
        except (TypeError, ValueError, RuntimeError):
            kind = getattr(value, "dtype", type(value).__name__)
            self._refuse(where, f"an array of {kind}", "arrays of numbers")
        self._weigh(tensor.numel() * tensor.element_size())
        number = self._first + len(self.tensors)
        self.tensors[_tensor_name(number)] = tensor.contiguous()
        return {_ARRAY: number}

    def _weigh(self, count: int) -> None:
        self._bytes += count
        if self._bytes > MOST_BYTES:
            raise UsageError(f"callbacks: {self._name} keeps more than {MOST_BYTES // 2**20} MB")

    def _refuse(self, where: str, found: str, allowed: str) -> None:
        place = f" at {shortened(printable(where), 100)}" if where else ""
        raise UsageError(f"callbacks: the state of {self._name} holds {found}{place}, allowed: {allowed}")
