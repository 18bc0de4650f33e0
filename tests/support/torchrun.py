"""Two processes started by torchrun itself: slow, and only for what `WarmPython.together` cannot show."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from warm import Finished

ROOT = Path(__file__).resolve().parents[2]


def torchrun(*words: object, folder: Path, restarts: int = 0) -> Finished:
    """Runs `torchrun --nproc-per-node=2 WORD...`, and returns it finished.

    Args:
        words: a script, or `-m` and a module, and the arguments.
        folder: the working folder.
        restarts: how often the group is started again after one of it has failed.
    """
    starter = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", f"--max-restarts={restarts}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *starter, *map(str, words)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=480,
        check=False,
    )
