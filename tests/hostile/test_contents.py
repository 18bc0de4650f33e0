"""Model files whose archive is sound and whose contents are not: refused in one line before they cost anything."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from spoiling import Members, described, with_config, with_layer, with_weights

from kcv.errors import ArtifactError
from kcv.inference.opening import load

Pack = Callable[..., Path]
Edit = Callable[[h5py.File], object]


def unstored_texts(file: h5py.File) -> None:
    file.create_dataset("zz", (2**38,), dtype=h5py.string_dtype(), chunks=(2**20,))


def many_attributes(file: h5py.File) -> None:
    for number in range(101):
        file.attrs[str(number)] = 1


WEIGHTS: dict[str, tuple[Edit, str]] = {
    "texts that are not stored": (unstored_texts, "are no numbers"),
    "a text": (lambda file: file.create_dataset("zz", data="text"), "are no numbers"),
    "a compound": (lambda file: file.create_dataset("zz", data=np.zeros(2, [("a", "f4")])), "are no numbers"),
    "nothing": (lambda file: file.create_dataset("zz", data=h5py.Empty("f4")), "are empty"),
    "a piece that is larger than all": (
        lambda file: file.create_dataset("zz", (1,), "f4", maxshape=(None,), chunks=(2**27,)),
        "larger than they are",
    ),
    "another packing": (
        lambda file: file.create_dataset("zz", data=np.zeros(9, "f4"), chunks=(9,), compression="lzf"),
        "packed by a method",
    ),
    "a type": (lambda file: file.__setitem__("zz", np.dtype("f4")), "is no array"),
    "many attributes": (many_attributes, "101 attributes"),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_are_no_stored_numbers_are_refused(name: str, tiny: Members, pack: Pack) -> None:
    edit, words = WEIGHTS[name]
    with pytest.raises(ArtifactError, match=words) as caught:
        load(pack(with_weights(tiny, edit)), device="cpu")
    assert "\n" not in str(caught.value)


def test_weights_that_are_packed_twice_are_held_against_the_file(tiny: Members, pack: Pack) -> None:
    def edit(file: h5py.File) -> None:
        data = np.zeros(2**20, "f4")
        data[::16] = np.arange(2**16) % 7
        for number in range(24):
            file.create_dataset(f"z{number}", data=data, chunks=(2**16,), compression="gzip", compression_opts=1)

    members = with_weights(tiny, edit)
    path = pack(members, zipfile.ZIP_DEFLATED)
    with pytest.raises(ArtifactError, match="would unpack to"):
        load(path, device="cpu")


def reversed_layers(config: dict[str, Any]) -> None:
    layers = config["config"]["layers"]
    tensor = {"shape": [None, 16, 16, 3], "dtype": "float32"}
    before, more = "image", []
    for number in range(1000):
        argument = {"class_name": "__keras_tensor__", "config": {**tensor, "keras_history": [before, 0, 0]}}
        before = f"i{number}"
        more.append(
            {
                "module": "keras.layers", "class_name": "Identity", "registered_name": None, "name": before,
                "config": {"name": before, "dtype": "float32"},
                "inbound_nodes": [{"args": [argument], "kwargs": {}}],
            }
        )  # fmt: skip
    config["config"]["layers"] = [layers[0], *reversed(more), *layers[1:]]


def top(name: str, **more: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    module = "keras" if name == "Sequential" else "keras.layers"
    inner = {"name": "s", "layers": [], **more} if name == "Sequential" else {"name": "s", "units": 3}
    return lambda _: {"module": module, "class_name": name, "config": inner, "registered_name": None}


def of_layer(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda config: config["config"]["layers"][1].update(changes)


def many_layers(config: dict[str, Any]) -> None:
    config["config"]["layers"] *= 1000


CONFIGS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "layers from last to first": (reversed_layers, "in the order in which they are computed"),
    "7,000 layers": (many_layers, "more than 5,000 layers"),
    "a model that is empty": (top("Sequential"), "cannot be opened|never built"),
    "a layer alone": (top("Dense"), "holds Dense, which is no model"),
    "nothing": (lambda _: {"a": 1}, "holds nothing, which is no model"),
    "a module that is a list": (of_layer(module=["keras.layers"]), "which kcv does not open"),
    "a module that is an object": (of_layer(module={"a": "keras.layers"}), "which kcv does not open"),
    "a registered name that is a list": (of_layer(registered_name=["Rescaling"]), "which kcv does not open"),
    "layers that are a number": (lambda config: config["config"].update(layers=3), "cannot be opened"),
    "layers that are numbers": (lambda config: config["config"].update(layers=[3]), "cannot be opened"),
    "no layers": (lambda config: config["config"].pop("layers"), "cannot be opened"),
    "no configuration": (lambda config: config.update(config=None), "cannot be opened"),
}
LAYERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "a text as input": ("image", {"dtype": "string"}, "takes string, not images|cannot be opened"),
    "an average over 20,000 px": (
        "pool", {"pool_size": [20_000, 20_000], "strides": [1, 1], "padding": "same"}, "has a window of 20,000 px",
    ),
    "a pool of 10^9": ("pool", {"pool_size": [10**9, 10**9], "padding": "same"}, "has a window of 1,000,000,000 px"),
    "a dilation of 10,000": ("conv", {"dilation_rate": [10_000, 10_000]}, "has a window of 20,001 px"),
    "a stride of 10^30": ("pool", {"strides": [10**30, 1]}, "cannot be"),
    "another size": ("image", {"batch_shape": [None, 32, 32, 3]}, "but its description says"),
    "an open size": ("image", {"batch_shape": [None, None, None, 3]}, "but its description says"),
    "a scale that is a text": ("scale", {"scale": "a"}, "cannot be"),
}  # fmt: skip


@pytest.mark.parametrize("name", [*CONFIGS, *LAYERS])
def test_a_config_that_no_model_has_is_refused(name: str, tiny: Members, pack: Pack) -> None:
    if name in CONFIGS:
        edit, words = CONFIGS[name]
        members = with_config(tiny, edit)
    else:
        layer, options, words = LAYERS[name]
        members = with_layer(tiny, layer, **options)
    with pytest.raises(ArtifactError, match=words) as caught:
        load(pack(members), device="cpu").predict(np.zeros((1, 16, 16, 3), np.uint8))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_a_number_that_is_none_is_refused(tiny: Members, pack: Pack) -> None:
    text = tiny["config.json"].replace(b"0.00392156862745098", b"NaN")
    assert text != tiny["config.json"]
    with pytest.raises(ArtifactError, match=r"config\.json is damaged"):
        load(pack({**tiny, "config.json": text}), device="cpu")


def set_first(value: float) -> Edit:
    def edit(file: h5py.File) -> None:
        found: list[h5py.Dataset] = []
        file.visititems(lambda _, item: found.append(item) if isinstance(item, h5py.Dataset) else None)
        data = found[0][...].astype("f8")
        name, parent = found[0].name, found[0].parent
        del parent[name]
        parent[name] = np.full_like(data, value)

    return edit


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300, 3e38])
def test_weights_that_make_no_finite_logits_are_an_error_of_the_file(value: float, tiny: Members, pack: Pack) -> None:
    loaded = load(pack(with_weights(tiny, set_first(value))), device="cpu")
    with pytest.raises(ArtifactError, match="gives logits that are no finite numbers"):
        loaded.predict(np.full((1, 16, 16, 3), 200, np.uint8))


def test_a_scale_beyond_float32_is_an_error_of_the_file(tiny: Members, pack: Pack) -> None:
    loaded = load(pack(with_layer(tiny, "scale", scale=1e38)), device="cpu")
    with pytest.raises(ArtifactError, match=r"no finite numbers|cannot be run"):
        loaded.predict(np.full((1, 16, 16, 3), 200, np.uint8))


def test_a_model_that_fails_when_it_is_run_is_one_line(
    tiny: Members, pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no kernel\nof this kind")

    loaded = load(pack(tiny), device="cpu")
    monkeypatch.setattr("kcv.inference.keras_model.native_forward", lambda _: fails)
    with pytest.raises(ArtifactError, match=r"m\.keras: cannot be run \(no kernel\)$"):
        loaded.predict(np.zeros((1, 16, 16, 3), np.uint8))


def test_a_sound_file_opens_and_answers(tiny: Members, pack: Pack) -> None:
    loaded = load(pack(tiny), device="cpu")
    assert loaded.predict(np.zeros((2, 16, 16, 3), np.uint8)).shape == (2, 3)
    assert loaded.info.metrics == json.loads(tiny["kcv.json"])["metrics"]
    assert load(pack(described(tiny, of_a_later_version=[1])), device="cpu").info == loaded.info
