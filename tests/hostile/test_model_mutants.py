"""One thing of a sound model file changed at a time: all that reads the file answers or refuses it in one line.

A seeded sample in the fast set, all of them in the complete one.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from spoiling import Members, with_weights

from kcv import artifact
from kcv.cli import results
from kcv.errors import KcvError
from kcv.reporting.card import card
from kcv.reporting.material import gather
from kcv.reporting.page import page

Mutant = tuple[str, Members]
Pack = Callable[..., Path]

GONE = object()
DEEP: Any = 1
for _ in range(40):
    DEEP = [{"a": DEEP}]
VALUES = (GONE, None, [], {}, [1, "a"], {"a": 1}, "", "text", "\x1b[2J<b>`", True, -1, 0, 1.5, 10**30, 1e300, DEEP)
_FEW = {"config.json": 40, "kcv.json": 250, "model.weights.h5": 25, "archive": 10}
"""Of each part in the fast set: what needs Keras takes a tenth of a second."""


def paths(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields where each value within a JSON value stands."""
    inner: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in inner:
        yield (*before, key)
        yield from paths(child, (*before, key))


def json_mutants(members: Members, name: str) -> Iterator[Mutant]:
    """Yields each value of a JSON member in place of each other kind of value."""
    for path in paths(json.loads(members[name])):
        for value in VALUES:
            whole = json.loads(members[name])
            node = whole
            for key in path[:-1]:
                node = node[key]
            if value is not GONE:
                node[path[-1]] = value
            elif isinstance(node, dict):
                del node[path[-1]]
            else:
                node.pop(path[-1])
            shown = "gone" if value is GONE else repr(value)[:20]
            yield f"{name} {'.'.join(map(str, path))} = {shown}", {**members, name: json.dumps(whole).encode()}


def weight_mutants(members: Members) -> Iterator[Mutant]:
    """Yields each array and group of the weights changed."""
    names: list[str] = []
    with_weights(members, lambda file: file.visit(names.append))

    def put(name: str, value: Any) -> Callable[[h5py.File], None]:
        def edit(file: h5py.File) -> None:
            del file[name]
            if value is not GONE:
                file[name] = value

        return edit

    def attribute(name: str, value: Any) -> Callable[[h5py.File], None]:
        return lambda file: file[name].attrs.__setitem__("dtype", value)

    arrays = {
        "gone": GONE, "a number": 1.0, "a text": "text", "empty": h5py.Empty("f4"), "no elements": np.zeros(0, "f4"),
        "another shape": np.zeros((2, 2), "f4"), "texts": np.array([b"a", b"b"]), "complex": np.zeros(4, "c8"),
        "a compound": np.zeros(2, [("a", "f4")]), "NaN": np.full(4, np.nan, "f4"), "truth": np.zeros(4, bool),
    }  # fmt: skip
    for name in names:
        for words, value in arrays.items():
            yield f"{name} {words}", with_weights(members, put(name, value))
        for value in ("bfloat16", "text", 3, np.zeros(3), b"\xff"):
            yield f"{name} attribute {value!r}", with_weights(members, attribute(name, value))


def archive_mutants(members: Members) -> Iterator[Mutant]:
    """Yields each member gone, empty, cut, doubled and of other bytes."""
    for name, data in members.items():
        yield f"{name} gone", {key: value for key, value in members.items() if key != name}
        for words, content in {
            "empty": b"", "cut": data[: len(data) // 2], "doubled": data * 2, "zeros": bytes(len(data)),
            "noise": random.Random(0).randbytes(len(data)), "reversed": data[::-1],
        }.items():  # fmt: skip
            yield f"{name} {words}", {**members, name: content}


def read(path: Path) -> None:
    """Shows a description as info, report and card do."""
    info = artifact.read_info(path)
    results.model_card(info, path)
    material = gather(path, path.parent / "evaluation")
    page(material)
    card(material)


def answer(path: Path) -> None:
    """Opens a model, and classifies a picture."""
    read(path)
    probabilities = artifact.load(path, device="cpu").predict(np.full((1, 16, 16, 3), 99, np.uint8))
    assert probabilities.shape == (1, 3) and np.isfinite(probabilities).all()


@pytest.mark.parametrize("part", _FEW)
@pytest.mark.filterwarnings("ignore")  # Keras says of some that they are odd
def test_a_mutant_is_answered_or_refused(
    part: str, tiny: Members, pack: Pack, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    makers = {"model.weights.h5": weight_mutants, "archive": archive_mutants}
    mutants = list(makers[part](tiny) if part in makers else json_mutants(tiny, part))
    if not request.config.getoption("--full"):
        mutants = random.Random(0).sample(mutants, min(_FEW[part], len(mutants)))
    refused = 0
    for name, members in mutants:
        try:
            (read if part == "kcv.json" else answer)(pack(members))
        except KcvError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 800, name
        except Exception as error:
            raise AssertionError(f"{name} ends in {type(error).__name__}") from error
    with capsys.disabled():
        print(f" {part}: {len(mutants):,} mutants, {refused:,} refused", end="")
    assert refused > len(mutants) // 10
