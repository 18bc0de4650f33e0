"""States of trainings that never ran, whole enough to pass for real ones."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from kcv.training.callbacks.logging import COLUMNS
from kcv.training.loop import Stage
from kcv.training.resume.content import Plan
from kcv.training.resume.state import State

STEPS = 6
PLAN = Plan(stages=(Stage(0, 9, frozen=False, last=True),), steps=STEPS, patience=False, counts_steps=True)


def made_state(epoch: int = 2, step: int = 3) -> State:
    """Returns a state of `PLAN` as it is captured at a step; the first epoch was the best."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    version, words, gauss = random.getstate()
    tensors = {
        "model/00000": torch.full((2, 3), float(step)),
        "optimizer/00000": torch.tensor(epoch * STEPS + step, dtype=torch.int64),
        "metrics/00000": torch.tensor(0.5),
        "keras/00000": torch.tensor([1, 2], dtype=torch.int64),
        "torch": torch.get_rng_state(),
        "numpy": torch.from_numpy(np.asarray(keys).astype(np.int64)),
        "python": torch.tensor(words, dtype=torch.int64),
    }
    rows = [{name: float(number + 1) for name in COLUMNS} for number in range(epoch)]
    plain: dict[str, Any] = {
        "rate": 1.0,
        "numpy": [kind, *rest],
        "python": [version, gauss],
        "callbacks": {
            "clock": {"seconds": 1.5},
            "best": {"best_epoch": min(epoch, 1), "best": 0.5 if epoch else None},
            "history": {"rows": rows},
        },
    }
    return State(epoch, step, tensors, plain, [np.full((2, 3), 1, np.float32)] if epoch else [])
