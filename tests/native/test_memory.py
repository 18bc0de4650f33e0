from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from kcv.errors import DeviceError
from kcv.native import memory

ROOT = Path(__file__).resolve().parents[2]


SCRIPT = """
import resource, sys, torch, torch.nn.functional as F
from kcv.native.memory import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
x = torch.randn(64, 3, 64, 64)
w = [torch.randn(32, 3, 3, 3, requires_grad=True), torch.randn(32, 32, 3, 3, requires_grad=True)]
def step():
    y = F.relu(F.conv2d(F.relu(F.conv2d(x, w[0])), w[1]))
    torch.autograd.grad(y.mean(), w)
for _ in range(8):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.long
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator than glibc's")
def test_training_steps_stop_asking_the_system_for_memory() -> None:
    faults = {
        way: int(
            subprocess.run(
                [sys.executable, "-c", SCRIPT, way], capture_output=True, text=True, check=True, cwd=ROOT
            ).stdout
        )
        for way in ("kept", "given back")
    }
    assert faults["given back"] > 10_000
    assert faults["kept"] < 0.2 * faults["given back"]


def test_elsewhere_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert not memory.keep_freed_memory()
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not memory.keep_freed_memory()


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")]
)
def test_too_little_memory_is_one_line(error: Exception) -> None:
    with pytest.raises(DeviceError, match=r"smaller data\.batch_size") as caught, memory.enough_memory():
        raise error
    assert "\n" not in str(caught.value)


def test_another_error_is_not_taken_for_too_little_memory() -> None:
    with pytest.raises(RuntimeError, match="shapes"), memory.enough_memory():
        raise RuntimeError("shapes")
