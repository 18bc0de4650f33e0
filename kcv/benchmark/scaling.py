"""`torchrun ... -m kcv benchmark scaling`: training steps of several processes, compared with working alone."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from kcv.benchmark.candidates import Setting, StepFunction, kcv_step, together_step
from kcv.benchmark.cost import Work, fitted_link, step_seconds
from kcv.benchmark.networks import NAMES, sizes
from kcv.common.launch import Launch
from kcv.distributed.connecting import connect
from kcv.distributed.group import Group
from kcv.errors import UsageError
from kcv.models import registry
from kcv.native.device import describe_device, resolve_device, synchronize
from kcv.native.memory import keep_freed_memory
from kcv.native.precision import resolve_precision

_PROBES = (2**16, 2**19, 2**22, 2**24, 25 * 2**20)  # bytes; the last is a whole bucket
_WARM_UPS = 3


def benchmark_scaling(
    *,
    model: str | None = None,
    image_size: int | None = None,
    batch_size: int | None = None,
    precision: str = "auto",
    device: str = "auto",
    repeats: int = 20,
) -> list[dict[str, Any]]:
    """Measures steps of all processes together and of each alone, in turns, and compares them with the cost model.

    In the steps alone, all processes still run at the same time, so that they share the machine in the same way.

    Args:
        model: one of `kcv.benchmark.BENCHMARKED`; None for all of them.
        image_size: in pixels; by default 32 for the custom CNN, 64 for the others.
        batch_size: images over all processes; by default 128 per process for the custom CNN, 32 for the others.
        precision: as in the configuration.
        device: as in the configuration.
        repeats: number of timed turns.

    Returns:
        One row per model: medians in milliseconds, the fraction of a step spent waiting for others, measured and
        predicted, and the link used in the cost model.

    Raises:
        UsageError: there is only one process.
    """
    launch = Launch.current()
    if not launch.is_distributed:
        raise UsageError("benchmark scaling needs several processes: torchrun --nproc-per-node=2 -m kcv benchmark ...")
    where = resolve_device(device)
    if where == "cpu":
        keep_freed_memory()
    rows = []
    with connect() as group:
        link_times = {size: _all_reduce(group, size, where, repeats) for size in _PROBES}
        apart = where != "cpu" or launch.local_world_size < launch.world_size
        link = fitted_link(list(link_times), list(link_times.values()), group.world_size, apart=apart)
        for name in [model] if model else NAMES:
            default_size, default_batch = sizes(name)
            policy, _ = resolve_precision(precision, where, trains_depthwise=registry.get(name).depthwise)
            batch = batch_size // group.world_size if batch_size else default_batch
            setting = Setting(name, image_size or default_size, max(1, batch), policy, where)
            row = _row(setting, group, repeats)
            work = Work(row["alone_ms"] / 1e3, row["gradient_bytes"], row["statistics_bytes"], setting.batch_size)
            predicted = step_seconds(work, group.world_size, link)
            rows.append(
                {
                    **row,
                    "predicted_together_ms": 1e3 * predicted.seconds,
                    "predicted_share": predicted.share,
                    "link": asdict(link),
                    "all_reduce_ms": {size: 1e3 * seconds for size, seconds in link_times.items()},
                    "processes": group.world_size,
                    "machines": group.world_size // launch.local_world_size,
                    "hardware": describe_device(where),
                    "threads": torch.get_num_threads(),
                    "repeats": repeats,
                }
            )
    return rows


def _row(setting: Setting, group: Group, repeats: int) -> dict[str, Any]:
    together, gradient_bytes, statistics_bytes = together_step(setting, group)
    steps: dict[str, StepFunction] = {"alone": kcv_step(setting), "together": together}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(_WARM_UPS + repeats):
        for name, step in steps.items():
            taken = _timed(step, group, setting.device)
            if turn >= _WARM_UPS:
                seconds[name].append(taken)
    alone, both = (statistics.median(seconds[name]) for name in ("alone", "together"))
    return {
        "model": setting.model,
        "image_size": setting.image_size,
        "batch_size": setting.batch_size * group.world_size,
        "precision": setting.policy,
        "device": setting.device,
        "alone_ms": 1e3 * alone,
        "together_ms": 1e3 * both,
        "measured_share": 1 - alone / both,
        "images_per_second": setting.batch_size * group.world_size / both,
        "gradient_bytes": gradient_bytes,
        "statistics_bytes": statistics_bytes,
    }


def _timed(work: Callable[[], object], group: Group, device: str) -> float:
    """Returns the time in seconds of the slowest process, with all starting together."""
    synchronize(device)
    group.barrier()
    began = time.perf_counter()
    work()
    synchronize(device)
    return max(group.all_gather_object(time.perf_counter() - began))


def _all_reduce(group: Group, size: int, device: str, repeats: int) -> float:
    numbers = torch.from_numpy(np.ones(size // 4, np.float32)).to(device)
    times = [
        _timed(lambda: group.all_reduce_sum(numbers.fill_(1.0)), group, device) for _ in range(_WARM_UPS + repeats)
    ]
    return statistics.median(times[_WARM_UPS:])
