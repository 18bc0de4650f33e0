"""Sound files with one thing changed at a time: an answer or one line, never anything else.

Every field of an ONNX file, every operation of a pickle and every entry of a header is taken away, doubled, of another
kind, huge, or nested. The fast set tries some, always the same; `nox -s full` tries all (KCV_LONG=1).
"""

from __future__ import annotations

import io
import json
import pickle
import pickletools
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mutants import field_mutants, fields_of, message_of, pickle_mutants, value_mutants
from onnx_by_hand import SIZE, network

from kcv.data.sources import cifar10
from kcv.errors import ArtifactError, DataError, WeightsError
from kcv.inference.onnx_graph.messages import MODEL
from kcv.inference.onnx_model import OnnxModel
from kcv.models.weights import state_dict

resource = pytest.importorskip("resource", reason="needs the memory of this process")

MOST_MEMORY = 2**30
FAST = 150
"""Mutants of each kind of file in the fast set."""


@pytest.fixture(params=["some", pytest.param("all", marks=pytest.mark.long)])
def tried(request: pytest.FixtureRequest) -> Callable[[Iterator[Any], Callable[[Any], object]], int]:
    """Returns a function that tries mutants and says how many there were."""

    def run(mutants: Iterator[Any], use: Callable[[Any], object]) -> int:
        chosen = list(mutants)
        if request.param == "some":
            chosen = random.Random(0).sample(chosen, min(FAST, len(chosen)))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for mutant in chosen:
            use(mutant)
        assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MOST_MEMORY
        return len(chosen)

    return run


def test_onnx_files_with_one_field_changed(tried: Any, tmp_path: Path) -> None:
    sound = network()
    batch = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)
    path = tmp_path / "m.onnx"
    path.write_bytes(sound)
    expected = OnnxModel(path, device="cpu").run(batch)[1]
    assert expected.shape == (2, 3)
    fields = fields_of(sound, MODEL)
    assert message_of(fields) == sound

    def use(mutant: bytes) -> None:
        path.write_bytes(mutant)
        try:
            OnnxModel(path, device="cpu", threads=1).run(batch)
        except ArtifactError as error:
            assert "\n" not in str(error)

    assert tried(field_mutants(fields), lambda mutant: use(message_of(mutant))) >= FAST


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_batches_of_cifar10_with_one_operation_changed(protocol: int, tried: Any, tmp_path: Path) -> None:
    batch = {b"data": np.zeros((1, 3072), np.uint8), b"labels": [3], b"filenames": [b"a.png"], b"batch_label": b"x"}
    path = tmp_path / "test_batch"

    def use(mutant: bytes) -> None:
        path.write_bytes(mutant)
        try:
            cifar10._read_split(tmp_path, "test", ("test_batch",), 10)
        except DataError as error:
            assert "\n" not in str(error)

    assert tried(pickle_mutants(pickle.dumps(batch, protocol)), use) >= FAST


STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.float16)}


def use_weights(path: Path) -> Callable[[bytes], None]:
    def use(mutant: bytes) -> None:
        path.write_bytes(mutant)
        try:
            state_dict.read(path)
        except WeightsError as error:
            assert "\n" not in str(error)

    return use


def test_state_dicts_with_one_operation_changed(tried: Any, tmp_path: Path) -> None:
    stream = io.BytesIO()
    torch.save({"state_dict": STATE, "epoch": 3}, stream)
    with zipfile.ZipFile(stream) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}

    use = use_weights(tmp_path / "w.pth")

    def packed(mutant: bytes) -> bytes:
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as archive:
            for name, data in members.items():
                archive.writestr(name, mutant if name == "archive/data.pkl" else data)
        return content.getvalue()

    assert tried(pickle_mutants(members["archive/data.pkl"]), lambda mutant: use(packed(mutant))) >= FAST


def test_old_state_dicts_with_one_operation_changed(tried: Any, tmp_path: Path) -> None:
    stream = io.BytesIO()
    torch.save(STATE, stream, _use_new_zipfile_serialization=False)
    whole = stream.getvalue()

    def files() -> Iterator[bytes]:
        start = 0
        for _ in range(5):
            end = start + 1 + [position for _, _, position in pickletools.genops(whole[start:])][-1]
            yield from (whole[:start] + mutant + whole[end:] for mutant in pickle_mutants(whole[start:end]))
            start = end

    assert tried(files(), use_weights(tmp_path / "w.pt")) >= FAST


def test_safetensors_with_one_entry_changed(tried: Any, tmp_path: Path) -> None:
    header = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "F16", "shape": [2], "data_offsets": [24, 28]},
    }

    def files() -> Iterator[bytes]:
        for _, mutant in value_mutants(header):
            text = json.dumps(mutant).encode()
            yield len(text).to_bytes(8, "little") + text + bytes(28)

    use = use_weights(tmp_path / "w.safetensors")
    use(len(json.dumps(header)).to_bytes(8, "little") + json.dumps(header).encode() + bytes(28))
    assert tried(files(), use) >= FAST
