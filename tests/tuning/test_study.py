"""The folder of a study: nothing in it is another's."""

from __future__ import annotations

from pathlib import Path

import pytest

from kcv.errors import OutputError
from kcv.tuning.study import StudyFolder

NAMES = (
    "trials", "final", "resume", "study.db", "study.html", "trials.csv", "best.yaml", "test.json",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_that_holds_what_a_study_writes_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match=f"already holds {name}; choose another --output_dir or remove it"):
        StudyFolder.create("any", tmp_path)
    assert (tmp_path / name / "mine.txt").read_text() == "mine"


def test_a_folder_with_other_files_takes_a_study(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text("optim.lr: [0.1]")
    folder = StudyFolder.create("any", tmp_path)
    assert folder.path == tmp_path
    assert {path.name for path in folder.all} == {*NAMES, "study.json"}
