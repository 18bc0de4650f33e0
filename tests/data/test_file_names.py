import os
import pickle
import tracemalloc
from pathlib import Path

import numpy as np

from kcv.data.file_names import FileNames, FilePaths

NAMES = ["cat/1.jpg", "cat/größe.png", "dog/a b.png", os.fsdecode(b"dog/\xff.png"), "dog/z.gif"]


def test_names_come_back_as_they_were() -> None:
    names = FileNames.of(NAMES)
    assert list(names) == NAMES
    assert (names[0], names[-1]) == (NAMES[0], NAMES[-1])
    assert list(names[1:3]) == NAMES[1:3]
    assert list(names.take(np.array([4, 0, 4]))) == [NAMES[4], NAMES[0], NAMES[4]]
    assert list(FileNames.of([])) == []
    assert list(pickle.loads(pickle.dumps(names[2:]))) == NAMES[2:]


def test_paths_are_those_of_the_names() -> None:
    paths = FilePaths(Path("/root"), FileNames.of(NAMES))
    assert list(paths) == [Path("/root") / name for name in NAMES]
    assert paths[1:3].take(np.array([1]))[0] == Path("/root/dog/a b.png")


def test_a_name_costs_little_more_than_its_letters() -> None:
    count = 20_000
    tracemalloc.start()
    names = FileNames.of(f"class/{number:08d}.jpg" for number in range(count))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(names) == count
    assert held < count * (len("class/00000000.jpg") + 20)
