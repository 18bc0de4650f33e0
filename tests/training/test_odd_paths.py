"""A training on data in a folder of any name ends as any other does."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import kcv
from kcv import artifact
from kcv.common.text import is_printable
from kcv.config import Config


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other names")
def test_data_in_a_deep_folder_of_odd_names_are_named_in_the_model_file(
    configure: Callable[..., Config], images: Path, tmp_path: Path
) -> None:
    folder = tmp_path.joinpath("a\nb\u202ec", *(["x" * 250] * 6))
    folder.mkdir(parents=True)
    (folder / "pets").symlink_to(images)
    run = kcv.train(configure(data=str(folder / "pets"), epochs=1))
    name = artifact.read_info(run.model_path).data_name
    assert is_printable(name)
    assert len(name) <= 1000
    assert name.startswith(str(tmp_path))
    assert name.endswith("x/pets")
