"""What is asked of every network of the registry, from building to explaining: of its toy, and of its true size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pytest
import torch
import torchvision
from small_networks import FAMILIES, MAKERS, small_networks

from kcv import artifact
from kcv.artifact import ArtifactInfo
from kcv.config import MODEL_NAMES, ModelConfig
from kcv.exporting.graph import write_graph
from kcv.inference import opening
from kcv.inference.onnx_model import OnnxInfo, OnnxModel
from kcv.models import registry
from kcv.models.flops import multiply_adds
from kcv.native.model import NativeModel, native_target
from kcv.native.optimizers import FusedSGD
from kcv.saliency.explainer import Explainer

SIZE = 64
CLASSES = ("cat", "dog", "frog")
KNOWN = ("resnet50", "efficientnet_b0")
"""Toys that are trained, saved, exported and explained in other tests."""
QUICK = ("mobilenet_v3_small", "convnext_tiny")


@dataclass(frozen=True)
class Case:
    """A network at one of its sizes."""

    name: str
    true_size: bool

    def __str__(self) -> str:
        return f"{self.name} {'true' if self.true_size else 'small'}"


def cases() -> Iterator[object]:
    for name in MODEL_NAMES:
        if name in MAKERS:
            marks = (pytest.mark.full if name in FAMILIES and name not in KNOWN else pytest.mark.long,)
            yield pytest.param(Case(name, False), marks=() if name in QUICK else marks, id=f"small {name}")
        yield pytest.param(Case(name, True), marks=pytest.mark.long, id=name)


def images(count: int = 4) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module", params=cases())
def case(request: pytest.FixtureRequest) -> Case:
    assert isinstance(request.param, Case)
    return request.param


@pytest.fixture(scope="module")
def trained(case: Case) -> tuple[keras.Model, list[float], int]:
    """Returns a model after two native steps, their losses, and how many of its weights did not move."""
    keras.utils.set_random_seed(0)
    with nullcontext() if case.true_size else small_networks():
        model = registry.build(ModelConfig(name=case.name, weights="none", dropout=0.1), SIZE, len(CLASSES), images(8))
    native = NativeModel(model, target=native_target("cpu"))
    assert native.program is not None
    assert native.program.fallback_layers == ()
    native.compile(
        optimizer=FusedSGD(1e-2, momentum=0.9), loss=keras.losses.CategoricalCrossentropy(from_logits=True), metrics=[]
    )
    before = [variable.numpy().copy() for variable in model.trainable_variables]
    batch, targets = torch.from_numpy(images(6)), torch.eye(3).repeat(2, 1)
    losses = [float(native.train_on_batch(batch, targets, return_dict=True)["loss"]) for _ in range(2)]
    still = sum(
        bool((variable.numpy() == old).all()) for variable, old in zip(model.trainable_variables, before, strict=True)
    )
    return model, losses, still


def logits(model: keras.Model) -> np.ndarray:
    with torch.no_grad():
        return keras.ops.convert_to_numpy(model(images().astype(np.float32), training=False))


def test_two_native_steps_change_every_weight(trained: tuple[keras.Model, list[float], int]) -> None:
    _, losses, still = trained
    assert np.isfinite(losses).all() and losses[0] != losses[1]
    # Stochastic depth may leave out a block for a whole batch; a bias in front of a normalisation has no gradient.
    assert still <= 0.1 * len(trained[0].trainable_variables)


def test_plain_keras_opens_the_file(case: Case, trained: tuple[keras.Model, list[float], int], tmp_path: Path) -> None:
    model, _, _ = trained
    info = ArtifactInfo(
        model_name=case.name, class_names=CLASSES, image_size=SIZE, resize="squash", precision="float32",
        parameters={"total": 1, "trainable": 1}, data_name="mine", data_fingerprint="0", config={}, versions={},
    )  # fmt: skip
    artifact.save(tmp_path / "model.keras", model, info)
    plain = keras.saving.load_model(tmp_path / "model.keras")
    expected = logits(model)  # whose kernels lie in memory as the native program laid them: rounding differs
    np.testing.assert_allclose(logits(plain), expected, rtol=0, atol=1e-5 * max(1.0, np.abs(expected).max()))
    opened = opening.load(tmp_path / "model.keras", device="cpu")  # through every check of files from strangers
    assert opened.keras_model.count_params() == model.count_params()


def test_a_heat_map_is_drawn(trained: tuple[keras.Model, list[float], int]) -> None:
    maps = Explainer(trained[0]).explain(images(2)).maps["gradcam"]
    assert maps.shape == (2, SIZE, SIZE)
    assert torch.isfinite(maps).all()


@pytest.mark.long
def test_the_exported_graph_gives_the_same_logits(
    case: Case, trained: tuple[keras.Model, list[float], int], tmp_path: Path
) -> None:
    model, _, _ = trained
    info = OnnxInfo(CLASSES, SIZE, "squash", "float32", case.name, "mine", "0", "0")
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    write_graph(copy, info, tmp_path / "model.onnx")
    found, _ = OnnxModel(tmp_path / "model.onnx", device="cpu").run(images())
    expected = logits(model)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "resnet18" else pytest.mark.long) for name in MODEL_NAMES]
)
def test_the_multiply_adds_are_those_of_the_graph(name: str) -> None:
    network = registry.get(name)
    size = network.image_size or 32
    pixels = np.random.default_rng(0).integers(0, 256, (8, size, size, 3), dtype=np.uint8)
    on_meta = name in MAKERS  # the custom CNN fits its first layer to the images
    with keras.device("meta") if on_meta else nullcontext():
        model = registry.build(ModelConfig(name=name, weights="none"), size, 5, pixels)
    assert multiply_adds(model) == network.multiply_adds


def test_multiply_adds_are_those_that_torchvision_states() -> None:
    """Its documentation rounds them, and counts those of the logits."""
    for network in registry.networks():
        if (
            network.name not in torchvision.models.list_models()
            or network.name not in MAKERS
            or network.multiply_adds is None
        ):
            continue
        weights = torchvision.models.get_model_weights(network.name).DEFAULT
        if network.image_size != weights.meta.get("_size", weights.transforms().crop_size[0]):
            continue
        stated = weights.meta["_ops"]
        assert network.multiply_adds / 1e9 + network.features * 1000 / 1e9 == pytest.approx(stated, rel=0.02, abs=0.01)


def test_extras_with_weights_are_declared() -> None:
    """What a message tells people to install is in the project's metadata."""
    declared = (Path(registry.__file__).parents[2] / "pyproject.toml").read_text("utf-8")
    for network in registry.networks():
        if network.imagenet and network.imagenet.extra:
            package = (network.imagenet.package or "").replace("_", "-")
            assert f'{network.imagenet.extra} = ["{package}' in declared
