"""`kcv models --measure`: how quickly each network trains and predicts on this machine."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from kcv.benchmark.candidates import Setting, kcv_step, keras_model
from kcv.benchmark.networks import sizes
from kcv.inference.outputs import native_forward
from kcv.models import registry
from kcv.native.device import describe_device, resolve_device, synchronize
from kcv.native.memory import keep_freed_memory
from kcv.native.precision import resolve_precision

BATCH_SIZE = 16
_SECONDS = 2.0
"""The time that each of the two measurements takes."""
_LEAST = 2
"""The fewest timed steps, however long they take."""


def measure(name: str, image_size: int | None = None) -> dict[str, Any]:
    """Measures training steps and predictions of a network with random weights, at kcv's defaults for this machine.

    Args:
        name: a registered network.
        image_size: in pixels; by default 32 for the custom CNN, 64 for the others.

    Returns:
        Image size, batch size, device, hardware, and for training and prediction the precision and images/s.
    """
    where = resolve_device("auto")
    if where == "cpu":
        keep_freed_memory()
    size = image_size or sizes(name)[0]
    policy, _ = resolve_precision("auto", where, trains_depthwise=registry.get(name).depthwise)
    training = Setting(name, size, BATCH_SIZE, policy, where)
    rates = {"training": _rate(kcv_step(training), where)}
    prediction = Setting(name, size, BATCH_SIZE, "float32", where)
    forward, (images, _) = native_forward(keras_model(prediction)), prediction.batch()
    with torch.inference_mode():
        rates["prediction"] = _rate(partial(forward, images), where)
    gc.collect()
    return {
        "image_size": size,
        "batch_size": BATCH_SIZE,
        "precision": {"training": policy, "prediction": "float32"},
        "device": where,
        "hardware": describe_device(where),
        "threads": torch.get_num_threads(),
        "images_per_second": rates,
    }


def _rate(step: Callable[[], object], device: str) -> float:
    """Returns images/s after one step that is not timed."""
    step()
    synchronize(device)
    began, steps = time.perf_counter(), 0
    while steps < _LEAST or time.perf_counter() - began < _SECONDS:
        step()
        synchronize(device)
        steps += 1
    return BATCH_SIZE * steps / (time.perf_counter() - began)
