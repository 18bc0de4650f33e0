"""`kcv benchmark train`: hand-written PyTorch, stock Keras and kcv, taking turns step by step in one process."""

from __future__ import annotations

import gc
import logging
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from kcv.benchmark.candidates import Setting, StepFunction, kcv_step, keras_step, torch_network, torch_step
from kcv.benchmark.networks import NAMES, USUAL, sizes
from kcv.benchmark.peak import flops_of_step, matrix_rate
from kcv.benchmark.profile import profiled
from kcv.common.progress import Progress
from kcv.common.timing import interleave
from kcv.models import registry
from kcv.native.device import describe_device, resolve_device, synchronize
from kcv.native.memory import keep_freed_memory
from kcv.native.precision import resolve_precision

_log = logging.getLogger(__name__)

BENCHMARKED = tuple(NAMES)
NOISY = 0.25
"""The distance between the quartiles of a ratio, relative to it, from which the machine is too noisy to tell."""
_LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


def benchmark_training(
    *,
    model: str | None = None,
    image_size: int | None = None,
    batch_size: int | None = None,
    precision: str = "auto",
    device: str = "auto",
    repeats: int = 20,
    profile: bool = False,
) -> list[dict[str, Any]]:
    """Measures training steps.

    Args:
        model: one of `BENCHMARKED`; None for the usual ones (`networks.USUAL`).
        image_size: in pixels; by default 32 for the custom CNN, 64 for the others.
        batch_size: images per step; by default 128 for the custom CNN, 32 for the others.
        precision: as in the configuration.
        device: as in the configuration.
        repeats: timed turns per candidate; the first two turns are not timed.
        profile: whether to show which kinds of operations take the time, of kcv and of PyTorch.

    Returns:
        One row per model: medians of images/s, their ratios, and kcv's convolutions and products as a fraction of the
        machine's measured matrix rate. A ratio is None if its turns differ too much to tell (`NOISY`).

    Raises:
        DeviceError: device or precision is not available.
    """
    where = resolve_device(device)
    if where == "cpu":
        keep_freed_memory()  # of the whole process, so it helps all three equally
    rows = []
    for name in [model] if model else USUAL:
        default_size, default_batch = sizes(name)
        policy, _ = resolve_precision(precision, where, trains_depthwise=registry.get(name).depthwise)
        setting = Setting(name, image_size or default_size, batch_size or default_batch, policy, where)
        rows.append(_row(setting, matrix_rate(where, policy), repeats, profile))
        gc.collect()
    return rows


def _row(setting: Setting, peak: float, repeats: int, profile: bool) -> dict[str, Any]:
    layout, by_hand = _faster_layout(setting)
    candidates = {"torch": by_hand, "keras": keras_step(setting), "kcv": kcv_step(setting)}
    seconds = _take_turns(candidates, setting, repeats)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    flops = flops_of_step(torch_network(setting, torch.contiguous_format), setting.batch()[0])
    quartiles = {name: _quartiles(seconds[name], seconds["kcv"]) for name in ("torch", "keras")}
    row: dict[str, Any] = {
        "model": setting.model,
        "image_size": setting.image_size,
        "batch_size": setting.batch_size,
        "precision": setting.policy,
        "device": setting.device,
        "hardware": describe_device(setting.device),
        "threads": torch.get_num_threads(),
        "repeats": repeats,
        "milliseconds": {name: 1e3 * median for name, median in medians.items()},
        "images_per_second": {name: setting.batch_size / median for name, median in medians.items()},
        # The ratio of medians, and the quartiles of the ratio within turns, to show the noise.
        **{f"kcv_over_{name}": _ratio(medians[name] / medians["kcv"], quartiles[name]) for name in quartiles},
        **{f"kcv_over_{name}_quartiles": values for name, values in quartiles.items()},
        "torch_layout": layout,
        "gflop_per_step": flops / 1e9,
        "matrix_gflop_per_second": peak / 1e9,
        "peak_fraction": flops / medians["kcv"] / peak,
    }
    if profile:
        row["profile"] = {name: profiled(candidates[name], setting.device) for name in ("kcv", "torch")}
    return row


def _ratio(ratio: float, quartiles: Sequence[float]) -> float | None:
    return None if quartiles[1] - quartiles[0] > NOISY * ratio else ratio


def _faster_layout(setting: Setting) -> tuple[str, StepFunction]:
    """Returns the hand-written loop in its faster memory format, which its author would have chosen."""
    steps = {name: torch_step(setting, memory_format) for name, memory_format in _LAYOUTS.items()}
    seconds = _take_turns(steps, setting, repeats=3)
    best = min(steps, key=lambda name: statistics.median(seconds[name]))
    return best, steps[best]


def _take_turns(candidates: Mapping[str, StepFunction], setting: Setting, repeats: int) -> dict[str, list[float]]:
    """Returns each candidate's seconds per step, turn by turn."""
    with Progress(repeats, f"{setting.model} {' / '.join(candidates)}", unit="turns") as progress:
        wait = partial(synchronize, setting.device)
        return interleave(candidates, repeats, synchronize=wait, advance=progress.advance)


def _quartiles(theirs: Sequence[float], ours: Sequence[float]) -> list[float]:
    ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
    if len(ratios) < 2:
        return [ratios[0], ratios[0]]
    first, _, third = statistics.quantiles(ratios, n=4)
    return [first, third]
