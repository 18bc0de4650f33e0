"""How many cores there are to use, in all places that ask for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kcv.common.cores import usable_cores

Bind = Callable[..., None]


@pytest.fixture
def bind(monkeypatch: pytest.MonkeyPatch) -> Bind:
    """Returns a function that binds this process to some of many cores, as one of several of its machine."""

    def bind(cores: int, processes: int = 1) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
        monkeypatch.setattr(os, "cpu_count", lambda: 512)
        if processes > 1:
            told = {"RANK": 0, "WORLD_SIZE": processes, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": processes}
            for name, value in told.items():
                monkeypatch.setenv(name, str(value))

    return bind


@pytest.mark.parametrize(("cores", "processes", "usable"), [(1, 1, 1), (6, 1, 6), (12, 4, 3), (7, 2, 3), (2, 4, 1)])
def test_only_cores_that_it_is_bound_to_are_used_and_shared(
    bind: Bind, cores: int, processes: int, usable: int
) -> None:
    bind(cores, processes)
    assert usable_cores() == usable


@pytest.mark.parametrize(("counted", "usable"), [(8, 8), (None, 1)])
def test_where_nothing_can_be_bound_all_are_used(
    monkeypatch: pytest.MonkeyPatch, counted: int | None, usable: int
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: counted)
    assert usable_cores() == usable


def test_to_ask_imports_nothing_heavy() -> None:
    script = "import sys, kcv.common.cores; print(*{'numpy', 'torch', 'keras', 'PIL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_workers_leave_a_core_to_the_training(bind: Bind) -> None:
    from kcv.data.streaming import default_workers

    bind(12, 3)
    assert default_workers() == 3
    bind(1)
    assert default_workers() == 1


@pytest.mark.parametrize(("cores", "processes", "threads"), [(3, 1, 3), (8, 4, 2)])
def test_every_pool_of_threads_is_as_large(
    bind: Bind, images: Path, monkeypatch: pytest.MonkeyPatch, cores: int, processes: int, threads: int
) -> None:
    from kcv.data import in_memory
    from kcv.data.loading import open_source
    from kcv.inference import prediction
    from kcv.quality.copies import duplicates, scan

    found: dict[str, int] = {}

    def watch(module: Any) -> None:
        def pool(size: int) -> ThreadPoolExecutor:
            found[module.__name__] = size
            return ThreadPoolExecutor(size)

        monkeypatch.setattr(module, "ThreadPoolExecutor", pool)

    bind(cores, processes)
    modules = (duplicates, scan, in_memory, prediction)
    for module in modules:
        watch(module)
    source = open_source(str(images))
    duplicates.near_pairs(scan.scan(source).thumbnails)
    in_memory.decode(source.splits["test"], 16, "squash")
    idle: Any = prediction.Job(SimpleNamespace(concurrent=False), top_k=1, batch_size=4, threshold=None)  # type: ignore[arg-type]
    assert list(prediction.classified(idle, iter([]))) == []
    assert found == {module.__name__: threads for module in modules}
