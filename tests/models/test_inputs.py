"""The inside of the image contract: normalisation, layout, and what a model takes."""

import numpy as np
import pytest

from kcv.models.inputs import Normalisation, channel_statistics, network_input


def _images(n: int = 20, size: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def test_statistics_equal_numpys():
    pixels = _images()
    mean, variance = channel_statistics(pixels)
    scaled = pixels / 255
    np.testing.assert_allclose(mean, scaled.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(variance, scaled.var((0, 1, 2)), rtol=1e-9)


def test_a_constant_channel_is_centred_and_not_divided_by_zero():
    mean, variance = channel_statistics(np.full((2, 4, 4, 3), 51, np.uint8))
    np.testing.assert_allclose(mean, 0.2)
    np.testing.assert_array_equal(variance, 1.0)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_the_network_sees_standardised_channels_first(dtype):
    import keras

    pixels = _images()
    inputs, outputs = network_input(16, Normalisation.of(pixels))
    got = keras.ops.convert_to_numpy(keras.Model(inputs, outputs)(pixels.astype(dtype)))
    assert got.shape == (20, 3, 16, 16)
    np.testing.assert_allclose(got.mean((0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(got.std((0, 2, 3)), 1, atol=1e-4)
    mean, variance = channel_statistics(pixels)
    expected = (pixels[3, 5, 7] / 255 - mean) / np.sqrt(variance)
    np.testing.assert_allclose(got[3, :, 5, 7], expected, rtol=1e-5, atol=1e-6)
