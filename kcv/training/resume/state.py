"""The complete state of a training run between two steps: variables, generators, metrics and callback state."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import keras
import numpy as np
import torch
from keras.src.random.seed_generator import global_seed_generator
from numpy.typing import NDArray
from torch import Tensor

from kcv.distributed.group import Group
from kcv.errors import KcvError

_GENERATORS = ("torch", "cuda/")
_OWN = ("metrics/", *_GENERATORS)
"""Prefixes of the tensors that each process has for itself."""


class Stateful(Protocol):
    """A callback whose state is kept in checkpoints."""

    def state_dict(self) -> dict[str, Any]:
        """Returns the state as plain values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the state."""
        ...


@dataclass(frozen=True)
class State:
    """The state of a training run between two steps.

    Attributes:
        epoch: the epoch of the next step, from 0.
        step: the next step of that epoch, from 0; the number of steps if only the validation remains.
        tensors: on the CPU, named by `capture`; never modified.
        plain: everything else, as JSON-compatible values.
        best: the weights of the best epoch so far; empty before the end of the first epoch.
    """

    epoch: int
    step: int
    tensors: Mapping[str, Tensor]
    plain: Mapping[str, Any]
    best: Sequence[NDArray[Any]] = ()

    @property
    def bytes(self) -> int:
        """The size of the state in bytes."""
        return sum(t.numel() * t.element_size() for t in self.tensors.values()) + sum(a.nbytes for a in self.best)

    @property
    def lr_factor(self) -> float:
        """The learning rate relative to the configured one."""
        return float(self.plain["rate"])

    @property
    def finite(self) -> bool:
        """Whether all weights and running metrics are finite, so that training can resume from this state."""
        kept = (tensor for name, tensor in self.tensors.items() if name.startswith(("model/", "metrics/")))
        return all(bool(torch.isfinite(tensor).all()) for tensor in kept if tensor.is_floating_point())

    def numpy_generator(self) -> tuple[Any, ...]:
        """Returns the argument for `numpy.random.set_state`."""
        kind, position, has_gauss, gauss = self.plain["numpy"]
        return kind, self.tensors["numpy"].numpy().astype(np.uint32), position, has_gauss, gauss

    def python_generator(self) -> tuple[Any, ...]:
        """Returns the argument for `random.setstate`."""
        version, gauss = self.plain["python"]
        return version, tuple(self.tensors["python"].tolist()), gauss

    def gathered(self, group: Group) -> State:
        """Returns the main process's state plus the running metrics and generators of every process."""
        if not group.is_distributed:
            return self
        own = {name: self.tensors[name] for name in own_names(self.tensors)}
        others = {
            f"rank{rank}/{name}": tensor
            for rank, tensors in enumerate(group.all_gather_object(own))
            for name, tensor in tensors.items()
            if rank > 0
        }
        return replace(self, tensors={**self.tensors, **others}, plain={**self.plain, "processes": group.world_size})

    def of_process(self, rank: int, size: int) -> State:
        """Extracts the state of one of `size` processes from a state that contains all of them.

        If the number of processes has changed, rank 0 gets the sum of all running metrics, and the generators of the
        other ranks are not restored.
        """
        tensors = {name: tensor for name, tensor in self.tensors.items() if not name.startswith("rank")}
        before = int(self.plain.get("processes", 1))
        if before == size:
            tensors |= {name: self.tensors[f"rank{rank}/{name}"] for name in tensors if rank and name.startswith(_OWN)}
            return replace(self, tensors=tensors)
        for name in [name for name in tensors if name.startswith("metrics/")]:
            parts = [tensors[name], *(self.tensors[f"rank{other}/{name}"] for other in range(1, before))]
            tensors[name] = torch.stack(parts).sum(0) if rank == 0 else torch.zeros_like(tensors[name])
        if rank > 0:
            tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(_GENERATORS)}
        return replace(self, tensors=tensors)

    def with_lr_factor(self, factor: float) -> State:
        """Returns the same state with its learning rate multiplied by `factor`."""
        return replace(self, plain={**self.plain, "rate": self.lr_factor * factor})


def own_names(tensors: Iterable[str]) -> list[str]:
    """Returns the names of the tensors that each process has for itself, without those of other processes."""
    return [name for name in tensors if name.startswith(_OWN)]


def capture(
    model: keras.Model,
    train_model: keras.Model,
    stateful: Mapping[str, Stateful],
    *,
    epoch: int,
    step: int,
    lr_factor: float,
    best: Sequence[NDArray[Any]],
) -> State:
    """Copies the state of a training run between two steps.

    Args:
        model: the model whose variables are saved, including frozen ones and seed generators.
        train_model: the compiled model being fitted; its optimizer and metrics are saved.
        stateful: the stateful callbacks by name.
        epoch: see `State`.
        step: see `State`.
        lr_factor: the learning rate relative to the configured one.
        best: the weights of the best epoch.
    """
    tensors = {
        **_copies("model", model.variables),
        **_copies("optimizer", train_model.optimizer.variables),
        **_copies("metrics", train_model.metrics_variables),
        **_copies("keras", [global_seed_generator().state]),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        tensors["cuda/0"] = torch.cuda.get_rng_state()
    kind, keys, *rest = np.random.get_state(legacy=True)
    tensors["numpy"] = torch.from_numpy(np.asarray(keys).astype(np.int64))
    version, words, gauss = random.getstate()
    tensors["python"] = torch.tensor(words, dtype=torch.int64)
    plain = {
        "rate": lr_factor,  # the key in checkpoints of all versions
        "numpy": [kind, *rest],
        "python": [version, gauss],
        "callbacks": {name: callback.state_dict() for name, callback in stateful.items()},
    }
    return State(epoch, step, tensors, plain, tuple(best))


def restore(state: State, model: keras.Model, train_model: keras.Model, stateful: Mapping[str, Stateful]) -> None:
    """Restores variables and callbacks; call it after `fit` has built optimizer and metrics.

    Raises:
        KcvError: the state belongs to another network or optimizer.
    """
    kept = [(array.shape, str(array.dtype)) for array in state.best]
    if kept and kept != [(tuple(weight.shape), _dtype(weight.value)) for weight in model.weights]:
        raise KcvError("the checkpoint is of another network: its best weights do not fit")
    _put("model", state, model.variables)
    _put("optimizer", state, train_model.optimizer.variables)
    for name, callback in stateful.items():
        callback.load_state_dict(state.plain["callbacks"][name])


def restore_metrics(state: State, train_model: keras.Model) -> None:
    """Restores the running metrics of an epoch; call it after `fit` has reset them."""
    _put("metrics", state, train_model.metrics_variables)


def restore_generators(state: State) -> None:
    """Restores all random generators; call it when only the steps still draw random numbers."""
    _put("keras", state, [global_seed_generator().state])
    if "torch" in state.tensors:
        torch.set_rng_state(state.tensors["torch"])
    if torch.cuda.is_available() and "cuda/0" in state.tensors:
        torch.cuda.set_rng_state(state.tensors["cuda/0"])
    np.random.set_state(state.numpy_generator())
    random.setstate(state.python_generator())


def _copies(kind: str, variables: Iterable[Any]) -> dict[str, Tensor]:
    # One memory format for all: the layout of a kernel is up to the program that runs it.
    return {
        f"{kind}/{number:05d}": variable.value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for number, variable in enumerate(variables)
    }


def _put(kind: str, state: State, variables: Iterable[Any]) -> None:
    stored = [tensor for name, tensor in sorted(state.tensors.items()) if name.startswith(f"{kind}/")]
    variables = list(variables)
    # Compares dtypes as well as shapes: torch would silently convert another dtype.
    found, wanted = ([(tuple(t.shape), t.dtype) for t in group] for group in (stored, [v.value for v in variables]))
    if found != wanted:
        raise KcvError(f"the checkpoint is of another network or optimizer: its {kind} variables do not fit")
    with torch.no_grad():
        for tensor, variable in zip(stored, variables, strict=True):
            variable.value.copy_(tensor)  # in place: programs and optimizers hold references to the memory


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
