"""Hostile model files: each is refused in one line, runs nothing, and takes little memory and time."""

from __future__ import annotations

import io
import json
import os
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import torch
from warm import WarmPython

from kcv.artifact import read_info
from kcv.config import ModelConfig
from kcv.errors import KcvError
from kcv.inference.opening import load
from kcv.models.weights.loading import load as load_weights

Members = dict[str, bytes]


def pack(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    """Writes a model file."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    path.write_bytes(content.getvalue())
    return path


def layer_config(edit: Callable[[dict[str, Any]], None], class_name: str = "Dense") -> Callable[[Members], None]:
    """Returns what changes the first layer of a class in config.json."""

    def spoil(members: Members) -> None:
        config = json.loads(members["config.json"])
        for layer in config["config"]["layers"]:
            if layer["class_name"] == class_name:
                edit(layer)
                break
        members["config.json"] = json.dumps(config).encode()

    return spoil


def described(**changes: Any) -> Callable[[Members], None]:
    def spoil(members: Members) -> None:
        members["kcv.json"] = json.dumps({**json.loads(members["kcv.json"]), **changes}).encode()

    return spoil


def weights(edit: Callable[[h5py.File], None]) -> Callable[[Members], None]:
    def spoil(members: Members) -> None:
        content = io.BytesIO(members["model.weights.h5"])
        with h5py.File(content, "r+") as file:
            edit(file)
        members["model.weights.h5"] = content.getvalue()

    return spoil


def first_dataset(file: h5py.File) -> tuple[h5py.Group, str]:
    found: list[str] = []
    file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
    return file[found[0]].parent, found[0].rsplit("/", 1)[-1]


def relink(link: Any) -> Callable[[h5py.File], None]:
    def edit(file: h5py.File) -> None:
        group, name = first_dataset(file)
        del group[name]
        group[name] = link

    return edit


def external_storage(file: h5py.File) -> None:
    group, name = first_dataset(file)
    shape = group[name].shape
    del group[name]
    group.create_dataset(name, shape, "f4", external=[("/etc/passwd", 0, int(np.prod(shape)) * 4)])


def virtual(file: h5py.File) -> None:
    group, name = first_dataset(file)
    shape = group[name].shape
    del group[name]
    layout = h5py.VirtualLayout(shape, "f4")
    layout[...] = h5py.VirtualSource("/etc/passwd", "x", shape)
    group.create_virtual_dataset(name, layout)


def unstored(file: h5py.File) -> None:
    file.create_dataset("bomb", (2**34,), "f4", chunks=(2**20,), compression="gzip", fillvalue=0)


def hard_link_loop(file: h5py.File) -> None:
    file["loop"] = file


def member(name: str, data: bytes = b"x") -> Callable[[Members], None]:
    return lambda members: members.update({name: data})


def lambda_layer(layer: dict[str, Any]) -> None:
    layer.update(class_name="Lambda", module="keras.layers", registered_name=None)


def foreign(module: str, name: str, registered: str | None = None) -> Callable[[dict[str, Any]], None]:
    return lambda layer: layer.update(module=module, class_name=name, registered_name=registered)


def option(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda layer: layer["config"].update(changes)


def initializer(value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda layer: layer["config"].update(kernel_initializer=value)


SYSTEM = {"module": "os", "class_name": "system", "config": "touch canary", "registered_name": None}

SPOILED: dict[str, tuple[Callable[[Members], None], str]] = {
    "a Lambda layer": (layer_config(lambda_layer), "holds Lambda"),
    "a foreign class": (layer_config(foreign("subprocess", "Popen")), "holds Popen from subprocess"),
    "a registered package": (layer_config(foreign("keras.layers", "Dense", "evil>Dense")), "holds Dense"),
    "a TFSMLayer": (layer_config(foreign("keras.layers", "TFSMLayer")), "holds TFSMLayer"),
    "a TorchModuleWrapper": (layer_config(foreign("keras.layers", "TorchModuleWrapper")), "holds TorchModuleWrapper"),
    "an initializer that is a function": (layer_config(initializer(SYSTEM)), "holds system from os"),
    "an activation that is a function": (layer_config(option(activation=SYSTEM)), "holds system from os"),
    "a class hidden in an option": (layer_config(option(name=[{"x": SYSTEM}])), "holds system from os"),
    "a class name that is a list": (layer_config(foreign("keras.layers", ["Dense"])), "holds"),  # type: ignore[arg-type]
    "a layer of a billion units": (layer_config(option(units=10**9)), "bytes of weights, of which the file has"),
    "a layer of negative units": (layer_config(option(units=-1)), "cannot be opened"),
    "a kernel of a million": (layer_config(option(kernel_size=[10**6, 10**6]), "Conv2D"), "wants|cannot be opened"),
    "an input of a million": (
        layer_config(option(batch_shape=[None, 10**6, 10**6, 3]), "InputLayer"),
        "cannot be opened|numbers",
    ),
    "config.json of brackets": (member("config.json", b"[" * 100_000), "config.json is damaged"),
    "config.json that is a list": (member("config.json", b"[]"), "config.json is damaged"),
    "config.json of 20 MB": (member("config.json", b" " * 20_000_000 + b"{}"), "larger than"),
    "config.json that is not text": (member("config.json", bytes(range(256))), "config.json is damaged"),
    "kcv.json of brackets": (member("kcv.json", b"[" * 100_000), "its description is damaged"),
    "kcv.json of 20 MB": (member("kcv.json", b" " * 20_000_000), "larger than"),
    "an image size of a million": (described(image_size=10**6), "image_size"),
    "a negative image size": (described(image_size=-1), "image_size"),
    "a class name with a line feed": (described(class_names=["a\nkcv: error: b", "c", "d"]), "control characters"),
    "a class name with an escape": (described(class_names=["\x1b[2J", "c", "d"]), "control characters"),
    "a class name that turns the text": (described(class_names=["\u202egpj.exe", "c", "d"]), "control characters"),
    "a temperature of zero": (described(calibration={"temperature": 0.0}), "calibration"),
    "a temperature that is no number": (described(calibration={"temperature": "x"}), "calibration"),
    "sets that are text": (described(calibration={"sets": "all"}), "calibration.sets"),
    "sets without a probability": (described(calibration={"sets": {"wanted_coverage": 0.9, "images": 9}}), "least"),
    "a calibration of no augmentation": (described(tta={"../x": {}}), "tta"),
    "a calibration of views that is text": (described(tta={"flip": "warm"}), "tta.flip"),
    "a member outside": (member("../../canary"), "which no model file has"),
    "an absolute member": (member("/tmp/canary"), "which no model file has"),
    "assets that climb": (member("assets/../../canary"), "which no model file has"),
    "a program": (member("run.sh", b"touch canary"), "which no model file has"),
    "weights that are a soft link": (weights(relink(h5py.SoftLink("/elsewhere"))), "hold a link"),
    "weights that are an external link": (weights(relink(h5py.ExternalLink("/etc/passwd", "/x"))), "hold a link"),
    "weights stored in another file": (weights(external_storage), "in another file"),
    "virtual weights": (weights(virtual), "in another file"),
    "weights of 64 GB that are not stored": (weights(unstored), "would unpack to"),
    "weights that hold themselves": (weights(hard_link_loop), "twice"),
    "weights that are no HDF5": (member("model.weights.h5", b"\x89HDF\r\n\x1a\n" + bytes(500)), "cannot be read"),
    "weights that are a pickle": (member("model.weights.h5", pickle.dumps({"a": 1})), "cannot be read"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_model_file_is_refused(name: str, members: Members, tmp_path: Path, canary: Path) -> None:
    spoil, message = SPOILED[name]
    spoiled = dict(members)
    spoil(spoiled)
    with pytest.raises(KcvError, match=message) as caught:
        load(pack(tmp_path / "m.keras", spoiled), device="cpu")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize("version", ['"9.9.9"', '"9\\n9"', "[1]", "[" * 100_000, '"' + "9" * 1000 + '"'])
def test_a_model_of_another_keras_that_cannot_be_opened_says_so(version: str, members: Members, tmp_path: Path) -> None:
    spoiled = {**members, "metadata.json": b'{"keras_version": %b}' % version.encode()}
    layer_config(option(brand_new_option=True))(spoiled)
    with pytest.raises(KcvError, match="cannot be opened as a Keras model") as caught:
        load(pack(tmp_path / "m.keras", spoiled), device="cpu")
    told = str(caught.value)
    assert "\n" not in told and len(told) < 600
    if version == '"9.9.9"':
        assert f"(written with keras 9.9.9, here is keras {keras.__version__})" in told


def zip_bomb(members: Members, path: Path) -> None:
    pack(path, {**members, "model.weights.h5": bytes(300_000_000)}, zipfile.ZIP_DEFLATED)


def twice(members: Members, path: Path) -> None:
    pack(path, members)
    with pytest.warns(UserWarning), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("config.json", members["config.json"])


def encrypted(members: Members, path: Path) -> None:
    content = bytearray(pack(path, members).read_bytes())
    position = content.find(b"PK\x01\x02")
    while position >= 0:
        content[position + 8] |= 1
        position = content.find(b"PK\x01\x02", position + 4)
    path.write_bytes(content)


def lying_directory(members: Members, path: Path) -> None:
    content = bytearray(pack(path, members).read_bytes())
    position = content.find(b"PK\x01\x02")
    content[position + 42 : position + 46] = (2**31).to_bytes(4, "little")
    path.write_bytes(content)


def pipe(members: Members, path: Path) -> None:
    os.mkfifo(path)


def device(members: Members, path: Path) -> None:
    path.symlink_to("/dev/zero")


FILES: dict[str, Callable[[Members, Path], object]] = {
    "a zip bomb": zip_bomb,
    "a member that comes twice": twice,
    "an encrypted archive": encrypted,
    "a directory that lies": lying_directory,
    "a cut archive": lambda members, path: path.write_bytes(pack(path, members).read_bytes()[:-30]),
    "an empty file": lambda members, path: path.touch(),
    "a folder": lambda members, path: path.mkdir(),
    "a pipe": pipe,
    "an endless device": device,
    "a link to nothing": lambda members, path: path.symlink_to("nowhere"),
    "a pickle": lambda members, path: path.write_bytes(pickle.dumps(list(range(1000)))),
    "an empty archive": lambda members, path: pack(path, {}),
}


SOUND_DESCRIPTIONS = ("a zip bomb", "a member that comes twice", "a directory that lies")


@pytest.mark.skipif(sys.platform != "linux", reason="needs pipes and devices")
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_model_file_is_refused(name: str, members: Members, tmp_path: Path) -> None:
    path = tmp_path / "m.keras"
    FILES[name](members, path)
    uses: list[Callable[[Path], object]] = [lambda path: load(path, device="cpu")]
    if name not in SOUND_DESCRIPTIONS:
        uses.append(read_info)
    for use in uses:
        with pytest.raises(KcvError) as caught:
            use(path)
        assert "\n" not in str(caught.value)


def test_a_zip_bomb_takes_little_memory(members: Members, tmp_path: Path, warm: WarmPython) -> None:
    zip_bomb(members, tmp_path / "m.keras")
    script = tmp_path / "open_it.py"
    script.write_text(
        "import resource, sys, kcv.artifact\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    kcv.inference.opening.load(sys.argv[1], device='cpu')\n"
        "except kcv.errors.ArtifactError as error:\n    print(error)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
    )
    done = warm.start(str(script), [tmp_path / "m.keras"], folder=tmp_path).finished()
    message, growth = done.stdout.splitlines()
    assert "would unpack to" in message
    assert int(growth) < 100


class Evil:
    """Pickles as a command."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.canary}",)


def huge_header(path: Path, canary: Path) -> None:
    path.with_suffix(".safetensors").write_bytes((2**62).to_bytes(8, "little") + b"{}")


def bad_header(path: Path, canary: Path) -> None:
    text = b'{"conv1.weight": {"dtype": "F32", "shape": [1000000000, 1000000000], "data_offsets": [0, 4]}}'
    path.with_suffix(".safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))


def linked_h5(path: Path, canary: Path) -> None:
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        file["conv1_conv"] = h5py.ExternalLink("/etc/passwd", "/x")


WEIGHTS: dict[str, Callable[[Path, Path], object]] = {
    "w.pth a state dict with code": lambda path, canary: torch.save({"conv1.weight": Evil(canary)}, path),
    "w.pth a bare pickle with code": lambda path, canary: path.write_bytes(pickle.dumps(Evil(canary))),
    "w.pt a pickle of an old kind": lambda path, canary: path.with_suffix(".pt").write_bytes(
        pickle.dumps(Evil(canary), protocol=0)
    ),
    "w.safetensors a header without end": huge_header,
    "w.safetensors a header that lies": bad_header,
    "w.h5 a link": linked_h5,
    "w.h5 nothing": lambda path, canary: path.with_suffix(".h5").touch(),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_hostile_weights_are_refused(name: str, tmp_path: Path, canary: Path) -> None:
    file = name.split()[0]
    WEIGHTS[name](tmp_path / "w.pth", canary)
    with pytest.raises(KcvError) as caught:
        load_weights(ModelConfig(name="resnet50", weights=str(tmp_path / file)))
    assert "\n" not in str(caught.value)
