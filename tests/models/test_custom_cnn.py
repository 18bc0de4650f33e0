"""The custom CNN: its size, its contract, and that a plain Keras loads it."""

import numpy as np
import pytest

from kcv.config import ModelConfig


def _build(size: int = 32, classes: int = 10, policy: str = "float32", dropout: float = 0.0):
    from kcv.models import registry
    from kcv.native.precision import precision_scope

    pixels = np.random.default_rng(0).integers(0, 256, (8, size, size, 3), dtype=np.uint8)
    with precision_scope(policy):
        return registry.build(ModelConfig(name="custom_cnn", dropout=dropout), size, classes, pixels), pixels


def test_it_has_five_blocks_and_at_most_9_8_million_parameters():
    model, _ = _build()
    blocks = {layer.name.split("_")[0] for layer in model.layers if layer.name.startswith("block")}
    assert blocks == {f"block{number}" for number in range(1, 6)}
    assert model.count_params() <= 9_800_000


@pytest.mark.parametrize("size", [16, 28, 96, 160])
def test_any_size_from_16_px_gives_logits(size):
    model, pixels = _build(size, classes=3)
    logits = model(pixels, training=False)
    assert tuple(logits.shape) == (8, 3)
    assert model.output_shape == (None, 3)
    assert np.isfinite(logits.detach().numpy()).all()


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_uint8_and_float_images_give_the_same_float32_logits(policy):
    model, pixels = _build(policy=policy)
    from_bytes = model(pixels, training=False)
    assert str(from_bytes.dtype) == "torch.float32"
    np.testing.assert_array_equal(
        from_bytes.detach().numpy(), model(pixels.astype(np.float32), training=False).detach().numpy()
    )


def test_the_whitening_block_is_frozen_and_everything_else_learns():
    model, _ = _build()
    frozen = [variable.path for variable in model.variables if not variable.trainable]
    assert any("block1_whiten" in path for path in frozen)
    assert all("whiten" in path or "moving" in path or "seed" in path for path in frozen)


def test_convolutions_start_as_the_identity():
    model, _ = _build()
    kernel = model.get_layer("block3_conv1").get_weights()[0]
    shared = min(kernel.shape[2:])
    np.testing.assert_array_equal(kernel[1, 1, :shared, :shared], np.eye(shared, dtype=np.float32))
    assert not kernel[0, 0, :shared, :shared].any()


def test_dropout_is_a_choice():
    assert not any("dropout" in layer.name for layer in _build()[0].layers)
    model, _ = _build(dropout=0.3)
    assert model.get_layer("dropout").rate == pytest.approx(0.3)


def test_a_policy_leaves_no_trace_behind():
    import keras

    before = keras.config.dtype_policy().name
    _build(policy="mixed_bfloat16")
    assert keras.config.dtype_policy().name == before


def test_width_scales_the_channels():
    from kcv.models import registry

    pixels = np.zeros((4, 32, 32, 3), np.uint8)
    model = registry.build(ModelConfig(name="custom_cnn", width=1.5), 32, 10, pixels)
    assert [model.get_layer(f"block{number}_conv1").filters for number in range(2, 6)] == [96, 384, 384, 384]
    narrow = registry.build(ModelConfig(name="custom_cnn", width=0.125), 32, 10, pixels)
    assert narrow.get_layer("block2_conv1").filters == 16
    assert registry.build(ModelConfig(name="custom_cnn", width=1.75), 32, 10, pixels).count_params() <= 9_800_000
