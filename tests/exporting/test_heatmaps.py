"""`export --heatmaps`: the maps of the file are those of `kcv explain`, for each network, and nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import keras
import numpy as np
import pytest
from small_networks import small_networks
from variants import variants

from kcv import artifact, export, load_model
from kcv.config import ModelConfig
from kcv.errors import ExportError, ParityError
from kcv.exporting.graph import write_graph
from kcv.inference.onnx_model import OnnxInfo, OnnxModel
from kcv.inference.reference import Reference
from kcv.models import registry
from kcv.tasks import export as task

if TYPE_CHECKING:
    from kcv.tasks.export import Export
    from kcv.training.run_folder import Run

SIZE, CLASSES = 64, ("a", "b", "c")
INFO = OnnxInfo(CLASSES, SIZE, "squash", "float32", "net", "photos", "abc", "0", 1.3)


def pixels(count: int) -> np.ndarray:
    rough = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return rough.repeat(SIZE // 8, axis=1).repeat(SIZE // 8, axis=2)


@pytest.mark.full
@pytest.mark.parametrize("name", variants(["custom_cnn", "resnet50", "efficientnet_b0"], fast=1, mark=pytest.mark.long))
def test_the_maps_of_each_network_are_gradcams(name: str, tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    width = {"width": 0.25} if name == "custom_cnn" else {}
    with small_networks():
        config = ModelConfig.model_validate({"name": name, "weights": "none", **width})
        network = registry.build(config, SIZE, len(CLASSES), pixels(64))
    plain, mapped = tmp_path / "plain.onnx", tmp_path / "mapped.onnx"
    write_graph(network, INFO, plain)
    write_graph(network, INFO, mapped, find_heatmaps=task._heatmap_finder(network))
    made = OnnxModel(mapped, device="cpu")
    assert made.has_heatmaps and not OnnxModel(plain, device="cpu").has_heatmaps
    task._check_heatmaps(network, made, pixels(16))
    np.testing.assert_allclose(made.run(pixels(5))[1], OnnxModel(plain, device="cpu").run(pixels(5))[1], atol=1e-6)


@pytest.mark.full
def test_a_network_with_more_behind_its_features_is_refused(tmp_path: Path) -> None:
    inputs = keras.Input((SIZE, SIZE, 3))
    features = keras.layers.Conv2D(4, 3, strides=4, activation="relu")(inputs)
    hidden = keras.layers.Dense(6, activation="tanh")(keras.layers.Flatten()(features))
    network = keras.Model(inputs, keras.layers.Dense(3)(hidden))
    with pytest.raises(ExportError, match="takes 6 numbers for the 4 channels of the last feature map"):
        write_graph(network, INFO, tmp_path / "m.onnx", find_heatmaps=task._heatmap_finder(network))
    squeezed = keras.layers.Dense(4, activation="tanh")(keras.layers.GlobalAveragePooling2D()(features))
    network = keras.Model(inputs, keras.layers.Dense(3)(squeezed))
    write_graph(network, INFO, tmp_path / "m.onnx", find_heatmaps=task._heatmap_finder(network))
    with pytest.raises(ParityError, match=r"heat maps differ by up to .* from those of kcv explain, allowed 0.0001"):
        task._check_heatmaps(network, OnnxModel(tmp_path / "m.onnx", device="cpu"), pixels(4))
    last = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(3, 3)(features)))
    with pytest.raises(ExportError, match=r"the last layer of .* is no dense layer"):
        write_graph(last, INFO, tmp_path / "m.onnx", find_heatmaps=task._heatmap_finder(last))


@pytest.mark.full
@pytest.mark.usefixtures("kept_graphs")
def test_a_model_whose_maps_would_be_others_is_not_exported_with_them(trained_run: Run, tmp_path: Path) -> None:
    """At 16 px the last map of more than one cell lies before the last block, so that it is not all that follows."""
    with pytest.raises(ParityError, match=r"heat maps differ .* export without --heatmaps"):
        export(trained_run.model_path, tmp_path / "m.onnx", heatmaps=True)
    assert list(tmp_path.glob("*.onnx")) == []


def test_the_file_says_which_weights_it_holds_and_how_it_answered_on_the_test_split(
    trained_run: Run, exported: Export
) -> None:
    info = OnnxModel(exported.path).info
    assert info.weights_sha256 == artifact.weights_digest(trained_run.model_path)
    metrics = load_model(trained_run.model_path).info.metrics
    assert info.reference is not None and info.reference == Reference.from_metrics(metrics)
    assert info.reference.split == "test"
    assert sum(info.reference.confidence) == sum(info.reference.predicted) == 24
