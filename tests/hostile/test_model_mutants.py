"""One thing of a sound model file changed at a time: all that reads the file answers or refuses it in one line.

A seeded sample in the fast set, all of them in the complete one.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from mutants import Entries, archive_mutants, hdf5_mutants, value_mutants, zipped
from spoiling import Members

from kcv import artifact
from kcv.cli.render.info import model_card
from kcv.errors import KcvError
from kcv.inference import opening
from kcv.reporting.card import card
from kcv.reporting.material import gather
from kcv.reporting.page import page

Mutant = tuple[str, Entries]

_FEW = {"config.json": 20, "kcv.json": 120, "model.weights.h5": 12, "archive": 10}
"""Of each part in the fast set: what needs Keras takes a tenth of a second."""


def mutants(members: Members, part: str) -> Iterator[Mutant]:
    """Yields the file with each thing of a part changed."""
    if part == "archive":
        yield from archive_mutants(members)
        return
    data = members[part]
    changes: Iterator[tuple[str, bytes]] = (
        hdf5_mutants(data)
        if part.endswith(".h5")
        else ((words, json.dumps(value).encode()) for words, value in value_mutants(json.loads(data)))
    )
    for words, content in changes:
        yield f"{part} {words}", [*{**members, part: content}.items()]


def read(path: Path) -> None:
    """Shows a description as info, report and card do."""
    info = artifact.read_info(path)
    model_card(info, path)
    material = gather(path, path.parent / "evaluation")
    page(material)
    card(material)


def answer(path: Path) -> None:
    """Opens a model, and classifies an image."""
    read(path)
    probabilities = opening.load(path, device="cpu").predict(np.full((1, 16, 16, 3), 99, np.uint8))
    assert probabilities.shape == (1, 3) and np.isfinite(probabilities).all()


@pytest.mark.parametrize("part", _FEW)
@pytest.mark.filterwarnings("ignore")  # Keras says of some that they are odd
def test_a_mutant_is_answered_or_refused(
    part: str, tiny: Members, tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    tried = list(mutants(tiny, part))
    if not request.config.getoption("--full"):
        nulls = [one for one in tried if part == "kcv.json" and one[0].endswith("= None")]  # what is easily forgotten
        tried = [*nulls, *random.Random(0).sample(tried, min(_FEW[part], len(tried)))]
    path, refused = tmp_path / "m.keras", 0
    for name, entries in tried:
        path.write_bytes(zipped(entries))
        try:
            (read if part == "kcv.json" else answer)(path)
        except KcvError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 800, name
        except Exception as error:
            raise AssertionError(f"{name} ends in {type(error).__name__}") from error
    with capsys.disabled():
        print(f" {part}: {len(tried):,} mutants, {refused:,} refused", end="")
    assert refused > len(tried) // 10
