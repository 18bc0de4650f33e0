"""Backbone and head: what is frozen, what learns, and how deep it lies."""

from __future__ import annotations

from contextlib import nullcontext

import keras
import numpy as np
import pytest
import torch
from small_networks import small_networks

from kcv.config import MODEL_NAMES, ModelConfig
from kcv.models import registry
from kcv.models.backbone import Backbone

LARGE = [name for name in MODEL_NAMES if name != "custom_cnn"]
NETWORKS = [("custom_cnn", "true"), *((name, "small") for name in LARGE)]
NETWORKS += [pytest.param((name, "true"), marks=pytest.mark.full) for name in LARGE]


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


DEEPEST = {"custom_cnn": ("block1_whiten", 4, 4), "resnet50": ("conv1_conv", 16, 6)}
DEEPEST |= dict.fromkeys(("efficientnet_b0", "efficientnet_lite0"), ("stem_conv", 16, 5))
"""The first layer, and its depth in the true network and in the toy."""
LAST = {"custom_cnn": "block5_conv2", "resnet50": "conv5_block3_3_conv"}
LAST |= dict.fromkeys(("efficientnet_b0", "efficientnet_lite0"), "top_conv")


def test_depth_counts_blocks_from_the_head(model: keras.Model) -> None:
    depths = Backbone.of(model).depths()
    assert set(depths) == {layer.name for layer in model.layers} - {"pool", "dropout", "logits"}
    layer, true, small = DEEPEST[model.name]
    depth = true if model.count_params() > 3e6 else small
    assert (depths[layer], depths[LAST[model.name]]) == (depth, 0)
    order = [depths[layer.name] for layer in Backbone.of(model).layers if layer.weights]
    assert sorted(order, reverse=True) == order
