"""The run folder: what a new run may find there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kcv.config import Config
from kcv.training.run_folder import RunFolder


def test_a_folder_with_other_files_and_the_lock_of_a_killed_start_takes_a_run(
    configure: Callable[..., Config], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    (folder / "resume").mkdir(parents=True)
    (folder / "resume" / "lock").write_text("12345\n")
    for name in ("lr_finder.png", "notes.txt"):
        (folder / name).write_text("mine")
    assert RunFolder.create(configure()).path == folder
