"""The layer that is looked at is the last with height and width, whatever the network is built like."""

from __future__ import annotations

from typing import Any

import keras
import pytest
from keras import layers

from kcv.errors import UsageError
from kcv.saliency.explainer import Explainer

from .conftest import noise, sequential


def target(model: keras.Model, layer: str | None = None) -> tuple[str, int, int, int]:
    found = Explainer(model, layer=layer).target
    return found.layer, found.height, found.width, found.channels


@pytest.mark.parametrize(
    ("name", "size", "layer", "cells", "true_size"),
    [
        ("custom_cnn", 32, "block5_gelu2", 3, True),
        # The last blocks have one cell; this one still has nine.
        ("custom_cnn", 16, "block4_conv1", 3, True),
        ("resnet50", 64, "conv5_block3_out", 2, False),
        ("efficientnet_b0", 64, "top_activation", 8, False),
        ("efficientnet_lite0", 64, "top_activation", 8, False),
        pytest.param("resnet50", 64, "conv5_block3_out", 2, True, marks=pytest.mark.full),
        pytest.param("efficientnet_b0", 64, "top_activation", 2, True, marks=pytest.mark.full),
        pytest.param("efficientnet_lite0", 64, "top_activation", 2, True, marks=pytest.mark.full),
    ],
)
def test_of_kcvs_networks(name: str, size: int, layer: str, cells: int, true_size: bool, build: Any) -> None:
    assert target(build(name, size, settled=False, true_size=true_size)) == (layer, cells, cells, 1)


def test_the_map_before_pooling_padding_and_dropout() -> None:
    model = sequential(
        layers.Conv2D(4, 3, name="first"), layers.MaxPooling2D(), layers.Conv2D(4, 3, activation="relu", name="last"),
        layers.ZeroPadding2D(), layers.Dropout(0.5), layers.MaxPooling2D(), layers.Flatten(), layers.Dense(3),
    )  # fmt: skip
    assert target(model)[:3] == ("last", 5, 5)
    assert target(model, "first")[:3] == ("first", 14, 14)


def test_inside_a_nested_network_of_open_size() -> None:
    inner = keras.Sequential(
        [keras.Input((None, None, 3)), layers.Conv2D(4, 3, strides=2, name="inner"), layers.ReLU(name="end")]
    )
    model = sequential(layers.Rescaling(1 / 255), inner, layers.GlobalMaxPooling2D(), layers.Dense(2))
    assert target(model)[:3] == ("end", 7, 7)
    assert Explainer(model).explain(noise(16)).maps["gradcam"].shape == (4, 16, 16)


def test_channels_and_sides_are_told_apart_even_where_their_numbers_are_alike() -> None:
    stack = [layers.Conv2D(14, 3, name="conv"), layers.LayerNormalization(name="norm"), layers.GlobalAveragePooling2D()]
    model = sequential(*stack, layers.Dense(2))
    assert target(model, "norm")[1:3] == (14, 14)
    assert Explainer(model, layer="norm").target.channels == 3
    turned = sequential(
        layers.Permute((3, 1, 2)), layers.Conv2D(14, 3, data_format="channels_first"), layers.ReLU(name="relu"),
        layers.GlobalAveragePooling2D(data_format="channels_first"), layers.Dense(2),
    )  # fmt: skip
    assert target(turned) == ("relu", 14, 14, 1)
    back = sequential(
        layers.Permute((3, 1, 2)), layers.Conv2D(5, 3, data_format="channels_first"), layers.Permute((2, 3, 1)),
        layers.LayerNormalization(name="norm"), layers.Flatten(), layers.Dense(2),
    )  # fmt: skip
    assert target(back) == ("norm", 14, 14, 3)


def test_of_a_layer_that_is_called_twice_the_last_call_counts() -> None:
    shared = layers.Conv2D(3, 3, name="shared")
    model = sequential(layers.Rescaling(1 / 255), shared, layers.GlobalAveragePooling2D(), layers.Dense(2))
    inputs = keras.Input((16, 16, 3))
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(shared(shared(inputs)))))
    assert target(model)[:3] == ("shared", 12, 12)


def test_a_network_without_a_convolution_has_no_map() -> None:
    with pytest.raises(UsageError, match="no convolution"):
        Explainer(sequential(layers.Rescaling(1 / 255), layers.Flatten(), layers.Dense(2)))


@pytest.mark.parametrize("name", ["pool", "logits", "block9_conv1"])
def test_a_layer_that_has_no_map_gets_one_line_with_the_candidates(name: str, custom_cnn: keras.Model) -> None:
    with pytest.raises(UsageError) as caught:
        Explainer(custom_cnn, layer=name)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"--layer: no layer {name!r} with height and width.")
    assert message.endswith("block2_conv1 (31x31), block3_conv1 (15x15), block4_conv1 (7x7), block5_gelu2 (3x3).")
    assert ("Did you mean" in message) == name.startswith("block9")
