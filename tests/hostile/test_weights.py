"""Hostile files of weights: PyTorch and Keras see none that asks for more than it holds."""

from __future__ import annotations

import io
import json
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from small_networks import change_entry

from kcv.config import ModelConfig
from kcv.errors import WeightsError
from kcv.models import registry
from kcv.models.weights import checkpoint, keras_files, state_dict
from kcv.models.weights.loading import load as load_weights

SOUND = {"conv1.weight": torch.arange(24.0).reshape(2, 3, 2, 2), "bn1.bias": torch.ones(2)}


def saved(content: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(content, stream, **options)
    return stream.getvalue()


def packed(content: bytes, change: Callable[[str, bytes], bytes], how: int = zipfile.ZIP_STORED) -> bytes:
    """Returns an archive with other members."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(stream, "w", how) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return stream.getvalue()


def pickled(body: bytes) -> bytes:
    """Returns an archive with another pickle."""
    return packed(saved(SOUND), lambda name, data: body if name.endswith("data.pkl") else data)


def replaced(old: bytes, new: bytes, source: bytes | None = None) -> bytes:
    def change(name: str, data: bytes) -> bytes:
        assert not name.endswith("data.pkl") or old in data
        return data.replace(old, new) if name.endswith("data.pkl") else data

    return packed(source or saved(SOUND), change)


def twice() -> bytes:
    stream = io.BytesIO(saved(SOUND))
    with pytest.warns(UserWarning), zipfile.ZipFile(stream, "a") as archive:
        archive.writestr("archive/data.pkl", b"N.")
    return stream.getvalue()


def old_kind(*pickles: bytes, rest: bytes = b"") -> bytes:
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
    return b"".join([magic, pickle.dumps(1001, protocol=2), pickle.dumps({}, protocol=2), *pickles, rest])


NESTED = b"\x80\x02})q\0" + b"".join(b"h" + bytes([k]) + b"\x86q" + bytes([k + 1]) for k in range(60)) + b"K\x01s."
NESTED_SET = NESTED.replace(b"\x80\x02}", b"\x80\x02c__builtin__\nset\n](").replace(b"K\x01s.", b"e\x85R.")
NESTED_DICT = NESTED.replace(b"\x80\x02}", b"\x80\x02ccollections\nOrderedDict\n]](").replace(
    b"K\x01s.", b"K\x01ea\x85R."
)
STORAGE = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuJ\xff\xff\xff\x7fNtQ"
REBUILT = b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + b"K\0))\x89}tR"


def expand_user(*sizes: int) -> bytes:
    return saved({**SOUND, "big": torch.zeros(1).expand(*sizes)})


def shared() -> bytes:
    """Returns a file in which a thousand tensors are the same numbers."""
    one = torch.zeros(1_000_000)
    return saved({f"t{number}": one[: 1_000_000 - number] for number in range(1000)})


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "a deflated archive": (
        lambda: packed(saved({"a": torch.zeros(10**7)}), lambda name, data: data, zipfile.ZIP_DEFLATED),
        "would unpack to",
    ),
    "a member twice": (twice, "twice"),
    "no pickle": (lambda: packed(saved(SOUND), lambda name, data: data)[:-1], "damaged"),
    "a key without end": (lambda: pickled(NESTED), "key that is no plain value"),
    "a key without end, in a set": (lambda: pickled(NESTED_SET), "set of what is no plain value"),
    "a key without end, in pairs": (lambda: pickled(NESTED_DICT), "key that is no plain value"),
    "a key without end, an old kind": (lambda: old_kind(NESTED, b"]."), "key that is no plain value"),
    "a storage larger than its member": (lambda: replaced(b"K\x18tq", b"M\x00\x10tq"), "not there in full"),
    "a storage that is not there": (lambda: replaced(b"X\x01\0\0\x000q", b"X\x01\0\0\x009q"), "not there in full"),
    "a storage of a negative size": (lambda: replaced(b"K\x18tq", b"J\xff\xff\xff\xfftq"), "more than tensors"),
    "a storage of 8 GB, an old kind": (lambda: old_kind(b"\x80\x02}X\x01\0\0\0a" + REBUILT + b"s.", b"]."),
                                       "not there in full"),
    "a tar": (lambda: b"ustar" * 200, "damaged"),
    "another beginning": (lambda: pickle.dumps(7, protocol=2) * 5, "begins with something else"),
    "a source to compare with": (lambda: pickled(b"\x80\x02(X\x06\0\0\0moduleNX\x01\0\0\0aX\x01\0\0\0btQ."),
                                 "more than tensors"),
    "memory for a bytearray": (lambda: pickled(b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R."),
                               "more than tensors"),
    "memory for a tensor": (lambda: pickled(b"\x80\x02ctorch\nFloatTensor\nJ\xff\xff\xff\x7f\x85R."),
                            "more than tensors"),
    "a text encoded again and again": (
        lambda: pickled(b"\x80\x02(c_codecs\nencode\nq\0X" + struct.pack("<I", 1000) + b"x" * 1000
                        + b"X\x06\0\0\0latin1\x86q\1R" + b"h\0h\1R" * 1000 + b"l."), "unpacks to more"),
    "an array of numpy": (lambda: saved({"a": np.zeros(3)}), "more than tensors"),
    "tensors of another kind of number": (lambda: replaced(b"FloatStorage", b"EvilsStorage"), "more than tensors"),
    "an expand_user tensor": (lambda: expand_user(5 * 10**8), "far less"),
    "an expand_user kernel": (lambda: expand_user(10**6, 10, 10, 5), "far less"),
    "numbers that are shared by all": (shared, "far less"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_state_dict_ends_in_one_line(name: str, tmp_path: Path) -> None:
    make, message = HOSTILE[name]
    path = tmp_path / "w.pth"
    path.write_bytes(make())
    with pytest.raises(WeightsError, match=message) as caught:
        state_dict.read(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and "\n" not in text and len(text) < 400


def test_what_training_programs_save_is_opened(tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.zeros(4, 3)).sum().backward()
    optimizer.step()
    more = {"epoch": 3, "best": 0.5, "name": "x", "classes": ["a", "b"], "size": torch.Size([1, 2]), "kept": {1, "a"},
            "device": torch.device("cpu"), "kind": torch.float16, "bytes": b"x", "complex": 1j, "none": None,
            "parameter": torch.nn.Parameter(torch.ones(2))}  # fmt: skip
    content = {"state_dict": network.state_dict(), "optimizer": optimizer.state_dict(), **more}
    for number, options in enumerate(({}, {"_use_new_zipfile_serialization": False})):
        path = tmp_path / f"{number}.pth"
        path.write_bytes(saved(content, **options))
        read = state_dict.read(path)
        assert list(read) == list(network.state_dict())
        torch.testing.assert_close(read["0.weight"], network[0].weight.data)
    packed_again = packed(saved(SOUND), lambda name, data: data, zipfile.ZIP_DEFLATED)
    (tmp_path / "p.pth").write_bytes(packed_again)
    torch.testing.assert_close(state_dict.read(tmp_path / "p.pth"), SOUND)


def test_tied_tensors_and_other_precisions_are_opened(tmp_path: Path) -> None:
    one = torch.ones(500_000)
    (tmp_path / "w.pth").write_bytes(saved({"a": one, "b": one, "c": one.half(), "d": one.double()[:0]}))
    assert len(state_dict.read(tmp_path / "w.pth")) == 4


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {f"_orig_mod.{name}": value for name, value in state.items()},
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {f"module._orig_mod.{name}": value for name, value in state.items()},
        lambda state: {f"_orig_mod.module.{name}": value for name, value in state.items()},
        lambda state: {"state_dict": {f"model.{name}": value for name, value in state.items()}, "epoch": 3},
        lambda state: {"state_dict": {f"model._orig_mod.{name}": value for name, value in state.items()}},
        lambda state: {"state_dict": {f"net.backbone.{name}": value for name, value in state.items()}},
        lambda state: {"model": {f"backbone.{name}": value for name, value in state.items()}},
        lambda state: {"model_state_dict": state, "optimizer_state_dict": {"state": {}, "param_groups": []}},
        lambda state: {"model": {"state_dict": state}},
        lambda state: {"net": state, "acc": 1.0},
    ],
    ids=range(11),
)
def test_a_state_dict_is_found_in_what_it_is_wrapped_in(
    wrap: Callable[[dict[str, torch.Tensor]], Any], tmp_path: Path
) -> None:
    (tmp_path / "w.pth").write_bytes(saved(wrap(SOUND)))
    torch.testing.assert_close(state_dict.read(tmp_path / "w.pth"), SOUND)


def test_a_prefix_that_not_all_share_stays(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(saved({"model.a": torch.ones(1), "b": torch.ones(1)}))
    assert list(state_dict.read(tmp_path / "w.pth")) == ["model.a", "b"]


def test_a_whole_network_of_expanded_tensors_takes_no_memory(tmp_path: Path) -> None:
    parts = {"conv": [("weight", 4)], "depthwise": [("weight", 4)], "dense": [("weight", 2), ("bias", 1)],
             "norm": [(part, 1) for part in ("weight", "bias", "running_mean", "running_var")]}  # fmt: skip
    state = {
        f"{name}.{part}": torch.zeros(1).reshape([1] * axes).expand([5 * 10**8] + [1] * (axes - 1))
        for _, name, kind in registry.get("efficientnet_lite0").torch_file.layers()
        for part, axes in parts[kind]
    }
    (tmp_path / "w.pth").write_bytes(saved(state))
    with pytest.raises(WeightsError, match="far less"):
        load_weights(ModelConfig(name="efficientnet_lite0", weights=str(tmp_path / "w.pth")))


def header(text: bytes, size: int | None = None) -> bytes:
    return (len(text) if size is None else size).to_bytes(8, "little") + text


def described(tensors: dict[str, tuple[list[int], list[int]]], kind: str = "F32") -> bytes:
    """Returns a file with a number, and a header that says of each tensor its shape and its place."""
    said = {name: {"dtype": kind, "shape": s, "data_offsets": place} for name, (s, place) in tensors.items()}
    return header(json.dumps(said).encode()) + bytes(4)


SAFETENSORS = {
    "a header without end": header(b"{}", 2**62),
    "a header of 100 MB": header(b"{}" + b" " * 17_000_000),
    "a header longer than the file": header(b"{}", 1000),
    "a header of brackets": header(b"[" * 100_000),
    "a tensor larger than the file": described({"a": ([1_000_000], [0, 4_000_000])}),
    "a tensor larger than its place": described({"a": ([1000], [0, 4])}),
    "tensors in one place": described({"a": ([1], [0, 4]), "b": ([1], [0, 4])}),
    "an unknown kind": described({"a": ([1], [0, 4])}, "EVIL"),
    "nothing": b"",
}  # fmt: skip


@pytest.mark.parametrize("name", SAFETENSORS)
def test_hostile_safetensors_end_in_one_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(SAFETENSORS[name])
    with pytest.raises(WeightsError, match="is not a file of PyTorch weights, or is damaged") as caught:
        state_dict.read(path)
    assert "\n" not in str(caught.value)


def many_classes(file: h5py.File) -> None:
    file.create_dataset("logits/kernel", (2048, 10**6), "f4")


def packed_classes(file: h5py.File) -> None:
    file.create_dataset("kernel", (2048, 10**5), "f4", chunks=(64, 10**5), compression="gzip")[:64] = 0


def texts(file: h5py.File) -> None:
    file["texts"] = ["a", "b"]


def linked(file: h5py.File) -> None:
    file["link"] = h5py.ExternalLink("/etc/passwd", "/x")


@pytest.mark.parametrize("spoil", [many_classes, packed_classes, texts, linked])
def test_hostile_keras_weights_end_in_one_line(
    spoil: Callable[[h5py.File], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w.h5"
    with h5py.File(path, "w") as file:
        spoil(file)
    unbuilt = replace(registry.get("resnet50").keras_file, make=lambda **options: pytest.fail("it was built"))
    change_entry(monkeypatch, "resnet50", keras_file=unbuilt)
    with pytest.raises(WeightsError) as caught:
        keras_files.read(path, registry.get("resnet50"))
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_a_check_leaves_sound_files_alone(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(saved(SOUND))
    checkpoint.check(tmp_path / "w.pth")
