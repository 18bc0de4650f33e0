from __future__ import annotations

import json

import keras
import pytest
import torch
from torch import nn

from kcv.benchmark import BENCHMARKED, benchmark_training
from kcv.benchmark.candidates import Setting, kcv_step, keras_model, torch_network
from kcv.benchmark.peak import _products, flops_of_step, matrix_rate
from kcv.cli.render.benchmark import training_benchmark
from kcv.cli.specification import find_verb
from kcv.config import MODEL_NAMES
from kcv.native.layers import LOWERINGS

KEYS = {
    "model",
    "image_size",
    "batch_size",
    "precision",
    "device",
    "images_per_second",
    "kcv_over_torch",
    "kcv_over_keras",
    "peak_fraction",
}
"""What other programs read."""


def test_the_command_line_offers_what_is_measured() -> None:
    assert find_verb("benchmark").flags["model"].choices == BENCHMARKED
    assert set(BENCHMARKED) <= set(MODEL_NAMES)


@pytest.mark.full
def test_a_row_says_how_fast_each_is_and_by_how_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kcv.benchmark.training.NOISY", float("inf"))
    (row,) = benchmark_training(model="custom_cnn", batch_size=2, precision="float32", device="cpu", repeats=2)
    assert row.keys() >= KEYS
    assert json.loads(json.dumps(row)) == row
    assert row["images_per_second"].keys() == {"torch", "keras", "kcv"}
    rates, seconds = row["images_per_second"], row["milliseconds"]
    for name, rate in rates.items():
        assert rate == pytest.approx(2 / (seconds[name] / 1e3))
    assert row["kcv_over_torch"] == pytest.approx(rates["kcv"] / rates["torch"])
    assert row["kcv_over_keras"] == pytest.approx(rates["kcv"] / rates["keras"])
    assert 0 < row["peak_fraction"] < 1.5
    assert (row["image_size"], row["batch_size"], row["precision"]) == (32, 2, "float32")
    assert row["torch_layout"] in ("channels_last", "contiguous")
    assert training_benchmark([row]).splitlines()[1].split()[:4] == ["custom_cnn", "32", "2", "float32"]


def test_the_peak_is_of_products_of_the_same_matrices() -> None:
    matrix, convolved = (product() for product in _products("cpu", torch.float32, 64))
    torch.testing.assert_close(convolved[0].permute(1, 2, 0).reshape(64, 64), matrix)


@pytest.mark.parametrize(
    "name",
    ["custom_cnn", *(pytest.param(name, marks=pytest.mark.long) for name in BENCHMARKED if name != "custom_cnn")],
)
def test_both_networks_have_the_same_work_to_do(name: str) -> None:
    setting = Setting(name, 32, 2, "float32", "cpu")
    model, network = keras_model(setting), torch_network(setting, torch.contiguous_format)
    ours = sum(int(torch.tensor(weight.shape).prod()) for weight in model.trainable_weights)
    theirs = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    # Keras' ResNet-50 has biases in its convolutions, torchvision's has none: 26,560 of 23 million.
    assert abs(ours - theirs) / theirs < 0.002
    kinds = ("Conv2D", "DepthwiseConv2D", "Dense")
    # The scales of ConvNeXt's blocks are convolutions in Keras alone, and computed as products.
    products = [
        layer
        for layer in model._flatten_layers()
        if type(layer).__name__ in kinds and not layer.name.endswith("layer_scale")
    ]
    assert len(products) == sum(isinstance(module, nn.Conv2d | nn.Linear) for module in network.modules())
    assert all(type(layer) in LOWERINGS for layer in products)


def test_the_custom_cnn_in_pytorch_computes_what_the_keras_model_computes() -> None:
    """With the same weights and the same normalised images; so the two steps are the same work."""
    setting = Setting("custom_cnn", 32, 4, "float32", "cpu")
    model, network = keras_model(setting), torch_network(setting, torch.contiguous_format).eval().network
    kernels = [layer for layer in model.layers if type(layer).__name__ == "Conv2D"]
    modules = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    for layer, module in zip(kernels, modules, strict=True):
        module.weight.data = torch.from_numpy(layer.get_weights()[0]).permute(3, 2, 0, 1).contiguous()
    head, linear = model.get_layer("logits"), network[-1]
    linear.weight.data, linear.bias.data = (
        torch.from_numpy(head.get_weights()[0]).T,
        torch.from_numpy(head.get_weights()[1]),
    )
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3
    images, _ = setting.batch()
    normalised = keras.Model(model.inputs, model.get_layer("channels_first").output)(images.float(), training=False)
    torch.testing.assert_close(network(normalised), model(images.float(), training=False), rtol=1e-3, atol=1e-3)


def test_operations_are_those_of_the_layers() -> None:
    network = nn.Sequential(nn.Conv2d(8, 16, 3, groups=8), nn.Flatten(), nn.Linear(16 * 4 * 4, 5))
    forward = 2 * 2 * (16 * 4 * 4 * 9 * 1 + 16 * 4 * 4 * 5)  # two images, a product and a sum each
    assert flops_of_step(network, torch.zeros(2, 8, 6, 6)) == 3 * forward


def test_the_machines_rate_is_that_of_a_product() -> None:
    rate = matrix_rate("cpu", "float32", repeats=3)
    assert 1e9 < rate < 1e15


def test_the_kcv_step_is_native_and_learns() -> None:
    setting = Setting("custom_cnn", 32, 8, "float32", "cpu")
    step = kcv_step(setting)
    step()
    step()
