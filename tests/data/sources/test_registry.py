"""A source is one entry in one file, and nothing else knows its name."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import kcv
from kcv.config import Config
from kcv.data import sources
from kcv.data.loading import open_source
from kcv.errors import DataError

PACKAGE = Path(kcv.__file__).parent


def test_named_sources_are_told_in_help_and_in_errors() -> None:
    assert sources.names() == ("cifar10", "digits")
    assert sources.described() == "cifar10, digits, or the path of images"
    assert Config().data.source == sources.default() == "digits"
    with pytest.raises(DataError, match=r"neither cifar10, digits nor an existing path. Did you mean 'digits'\?"):
        open_source("digit")


def test_a_path_of_no_kind_is_told_all_kinds(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(
        DataError,
        match=r"notes.txt: is neither a folder of images nor an archive .* nor a .parquet file nor WebDataset",
    ):
        open_source(str(tmp_path / "notes.txt"))


@pytest.mark.parametrize("name", sources.names())
def test_the_name_of_a_source_stands_in_its_own_file_alone(name: str) -> None:
    """As text that code works with; docstrings may give examples."""
    holders = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and node.value == name:
                holders.add(path.relative_to(PACKAGE).as_posix())
    assert holders == {f"data/sources/{name}.py"}


def test_a_source_is_one_file_that_nothing_else_has_to_know(tmp_path: Path) -> None:
    (tmp_path / "greys.py").write_text(
        "from kcv.data.sources import NamedSource, PathSource, register\n"
        "def open_source():\n"
        "    import numpy as np\n"
        "    from kcv.data.dataset import Samples, Source\n"
        "    images = [np.full((8, 8, 3), 40 * i, np.uint8) for i in range(6)]\n"
        "    samples = Samples(images, np.arange(6) % 2, [f'greys/{i}' for i in range(6)])\n"
        "    return Source('greys', ('even', 'odd'), {'train': samples}, image_size=8)\n"
        "register(NamedSource('greys', 'six grey images', open_source))\n"
        "def is_grey(path):\n    return path.suffix == '.grey'\n"
        "register(PathSource('a .grey file', is_grey, lambda path, name, options: open_source()))\n"
    )
    (tmp_path / "my.grey").touch()
    script = (
        "import sys\n"
        "from kcv.data import sources\n"
        f"sources.__path__.append({str(tmp_path)!r})\n"
        "from kcv.config import Config\n"
        "print(sources.described())\n"
        "assert 'cifar10, digits, greys, or ' in type(Config().data).model_fields['source'].description\n"
        "assert not {'keras', 'torch', 'numpy', 'PIL', 'pyarrow'} & set(sys.modules)\n"
        "from kcv.data.loading import open_source\n"
        "print(open_source('greys').class_names)\n"
        f"print(open_source({str(tmp_path / 'my.grey')!r}).name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    assert done.stdout.splitlines() == [
        "cifar10, digits, greys, or the path of images", "('even', 'odd')", "greys",
    ]  # fmt: skip


def test_two_sources_of_one_name_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="two sources of the name digits"):
        sources.register(sources.named()[-1])
