"""Backbone and head: what is frozen, what learns, and how deep it lies."""

from __future__ import annotations

from contextlib import nullcontext

import keras
import numpy as np
import pytest
import torch
from small_networks import FAMILIES, small_networks

from kcv.config import MODEL_NAMES, ModelConfig
from kcv.models import registry
from kcv.models.backbone import Backbone

LARGE = [name for name in MODEL_NAMES if name != "custom_cnn"]
FAST = ("resnet50", "efficientnet_b0", "convnext_tiny")
NETWORKS = [("custom_cnn", "true")]
NETWORKS += [pytest.param((name, "small"), marks=() if name in FAST else pytest.mark.full) for name in FAMILIES]
NETWORKS += [pytest.param((name, "small"), marks=pytest.mark.long) for name in LARGE if name not in FAMILIES]
NETWORKS += [pytest.param((name, "true"), marks=pytest.mark.long) for name in LARGE]


@pytest.fixture(params=NETWORKS, scope="module", ids=lambda network: " ".join(network))
def model(request: pytest.FixtureRequest) -> keras.Model:
    name, size = request.param
    pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    with small_networks() if size == "small" else nullcontext():
        return registry.build(ModelConfig(name=name, weights="none", dropout=0.2), 32, 3, pixels)


def trained(model: keras.Model) -> set[str]:
    return {variable.path for variable in model.trainable_variables}


def test_frozen_only_the_logits_learn(model: keras.Model) -> None:
    Backbone.of(model).freeze()
    assert trained(model) == {"logits/kernel", "logits/bias"}
    assert all(
        variable.value.requires_grad is False for variable in model.non_trainable_variables if variable.trainable
    )


def test_unfreezing_gives_back_what_learned_before_and_no_more(model: keras.Model) -> None:
    model = keras.models.clone_model(model)
    backbone, before = Backbone.of(model), trained(model)
    backbone.freeze()
    backbone.unfreeze(batch_norm=True)
    assert trained(model) == before
    backbone.unfreeze(batch_norm=False)
    norms = {layer.name for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)}
    assert trained(model) == {path for path in before if path.split("/")[0] not in norms}
    assert "block1_whiten/kernel" not in trained(model)


def test_backbone_and_head_together_are_the_model(model: keras.Model) -> None:
    backbone = Backbone.of(model)
    images = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (4, 32, 32, 3)).astype(np.float32))
    with torch.no_grad():
        expected = model(images, training=False)
        features = backbone.features()(images, training=False)
        torch.testing.assert_close(backbone.head()(features, training=False), expected, rtol=0, atol=0)
    assert {id(v) for v in backbone.head().trainable_variables} <= {id(v) for v in model.trainable_variables}


FIRST = {"custom_cnn": "block1_whiten", "mobilenet_v3": "conv", "efficientnet": "stem_conv", "convnext": "stem_conv"}
"""The first layer with weights, by the beginning of the network's name; elsewhere it is conv1_conv."""
BLOCKS = {"custom_cnn": 5, "resnet18": 8, "resnet34": 16, "resnet50": 16, "resnet101": 33, "resnet50v2": 16}
BLOCKS |= {"efficientnet_b0": 16, "efficientnet_lite0": 16, "efficientnet_lite1": 21, "efficientnet_lite2": 21}
BLOCKS |= {"efficientnet_v2_b0": 21, "efficientnet_v2_b1": 27, "efficientnet_v2_b2": 28, "efficientnet_v2_b3": 32}
BLOCKS |= {"efficientnet_v2_s": 40, "mobilenet_v3_small": 11, "mobilenet_v3_large": 15, "densenet121": 58}
BLOCKS |= {"convnext_tiny": 18, "convnext_small": 36}
"""Blocks of the true networks, as their papers have them."""
SMALL_BLOCKS = {"resnet18": 6, "resnet34": 6, "resnet50": 6, "resnet101": 6, "efficientnet_b0": 5, "densenet121": 8}
SMALL_BLOCKS |= {"convnext_tiny": 5, "mobilenet_v3_small": 3, "resnet50v2": 8}
"""Blocks of some of the toys."""


def test_depth_counts_blocks_from_the_head(model: keras.Model) -> None:
    depths = Backbone.of(model).depths()
    assert set(depths) == {layer.name for layer in model.layers} - {"pool", "dropout", "logits"}
    first = next((layer for start, layer in FIRST.items() if model.name.startswith(start)), "conv1_conv")
    weighted = [layer.name for layer in Backbone.of(model).layers if layer.weights and layer.name != "normalise"]
    assert weighted[0] == first
    true_size = model.count_params() > 1.2e6
    # The custom CNN's stem is a block; elsewhere it comes before the first one.
    blocks = BLOCKS[model.name] - (model.name == "custom_cnn") if true_size else SMALL_BLOCKS.get(model.name)
    assert blocks is None or depths[first] == blocks
    assert depths[weighted[-1]] == 0
    order = [depths[layer.name] for layer in Backbone.of(model).layers if layer.weights]
    assert sorted(order, reverse=True) == order
