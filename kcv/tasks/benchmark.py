"""Measuring kcv beside what its users would use instead."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeAlias

from kcv.common.launch import Launch
from kcv.common.parameters import AtLeast, Device, OneOf, Precision, checked, renamed
from kcv.errors import UsageError

Row: TypeAlias = dict[str, Any]

TAKES: Mapping[str, tuple[str, ...]] = {
    "train": ("model", "image_size", "batch_size", "precision", "device", "repeats", "profile"),
    "predict": ("model", "image_size", "repeats"),
    "serve": ("model", "image_size", "repeats"),
    "data": ("image_size", "batch_size", "device", "repeats"),
    "memory": ("images", "image_size", "batch_size"),
    "scaling": ("model", "image_size", "batch_size", "precision", "device", "repeats"),
}
"""The options of each measurement: the parameters of its function, known here because those modules import torch."""


def _networks() -> tuple[str, ...]:
    """Returns the networks that are measured: those that have one in PyTorch beside them."""
    from kcv.models import registry

    return tuple(network.name for network in registry.networks() if network.torch)


@renamed(pictures="images")
@checked
def benchmark(
    what: Literal["train", "predict", "serve", "data", "memory", "scaling"],
    *,
    model: Annotated[str, OneOf(_networks)] | None = None,
    image_size: Annotated[int, AtLeast(16)] | None = None,
    batch_size: Annotated[int, AtLeast(1)] | None = None,
    precision: Precision = "auto",
    repeats: Annotated[int, AtLeast(1)] = 20,
    images: Annotated[int, AtLeast(1000)] | None = None,
    device: Device = "auto",
    profile: bool = False,
) -> list[Row]:
    """Measure kcv beside PyTorch, Keras and torchvision, in turns, on this machine.

    Args:
        what: train (training steps), predict (trained models), serve (the server), data (reading and augmenting
            images), memory (memory for streaming) or scaling (several processes, under torchrun).
        model: train, predict, serve, scaling: the network; default: the custom CNN and two larger ones.
        image_size: px; default: 32, for the larger networks 64 (train, scaling), 224 (predict, serve).
        batch_size: train, data, memory, scaling: images per batch; default: 128, for the larger networks 32, else 256.
        precision: train, scaling: precision of the computation.
        repeats: train, predict, serve, data, scaling: measured repetitions of each candidate.
        images: memory: number of images of the largest set; default: 1000000.
        device: train, data, scaling: where to compute.
        profile: train: show which kinds of operations take the time.

    Returns:
        Rows of plain values; see the functions of `kcv.benchmark`.

    Raises:
        UsageError: the measurement has no such option, or runs in one process and was started in several.
        DeviceError: when device or precision cannot be had.
        OutputError: there is not enough room for the largest set (memory).

    Example:
        $ kcv benchmark train --precision=float32
        $ kcv benchmark predict --repeats=50
    """
    values: dict[str, Any] = {"model": model, "image_size": image_size, "batch_size": batch_size, "images": images}
    values |= {"precision": precision, "device": device, "repeats": repeats, "profile": profile}
    defaults = {"precision": "auto", "device": "auto", "repeats": 20, "profile": False}
    given = {name: value for name, value in values.items() if value != defaults.get(name)}
    for name in given:
        if name not in TAKES[what]:
            raise UsageError(f"benchmark {what} has no --{name}; {_which_have(name)}.")
    if Launch.current().is_distributed and what != "scaling":
        raise UsageError(f"benchmark {what} runs in one process; start it without torchrun.")
    return _measurement(what)(**given)


def _which_have(name: str) -> str:
    """Returns, in words, the measurements that have an option."""
    *first, last = [what for what, options in TAKES.items() if name in options]
    return f"benchmark {', '.join(first)} and {last} have" if first else f"benchmark {last} has"


def _measurement(what: str) -> Callable[..., list[Row]]:
    from kcv import benchmark as room

    measurements: dict[str, Callable[..., list[Row]]] = {
        "train": room.benchmark_training,
        "predict": room.benchmark_prediction,
        "serve": room.benchmark_serving,
        "data": room.benchmark_data,
        "memory": room.benchmark_memory,
        "scaling": room.benchmark_scaling,
    }
    return measurements[what]
