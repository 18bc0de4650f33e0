"""The environment of a run: enough to explain why two runs differ."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import kcv
from kcv.common.launch import Launch
from kcv.common.packages import installed
from kcv.common.redaction import command
from kcv.native.device import describe_device
from kcv.native.kernels import compiler
from kcv.training.commit import commit_of

_PACKAGES = ("keras", "torch", "torchvision", "numpy", "scikit-learn", "mlflow", "pillow")


def versions() -> dict[str, str]:
    """Returns the versions that affect what a model computes: kcv, keras, torch and Python."""
    return {
        "kcv": kcv.__version__,
        "keras": importlib.metadata.version("keras"),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }


def describe(*, device: str, precision: str, seed: int, data_fingerprint: str, weights: str | None) -> dict[str, Any]:
    """Returns the content of `environment.json`, as plain values only."""
    launch = Launch.current()
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command(sys.argv),
        "kcv": kcv.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": installed(_PACKAGES),
        "device": device,
        "device_name": describe_device(device),
        "cuda": torch.version.cuda if device == "cuda" else None,
        "c_compiler": compiler(),
        "threads": torch.get_num_threads(),
        "processes": launch.world_size,
        "job": launch.job,
        "precision": precision,
        "seed": seed,
        "data_fingerprint": data_fingerprint,
        "weights": weights,
        "git_commit": commit_of(Path(".")),
    }
