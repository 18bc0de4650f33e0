"""The whitening filters do what their name says, and no more."""

import numpy as np
import pytest
from PIL import Image

from kcv.models.inputs import channel_statistics
from kcv.models.whitening import whitening_filters


def _smooth_images(n: int = 64, size: int = 24) -> np.ndarray:
    """Images whose neighbouring pixels agree, as those of real ones do."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (n, 6, 6, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(one).resize((size, size))) for one in small])


@pytest.mark.parametrize(("kernel", "count"), [(2, 24), (4, 64)])
def test_filters_decorrelate_the_patches(kernel, count):
    pixels = _smooth_images()
    filters = whitening_filters(pixels, kernel, epsilon=0.0)
    assert filters.shape == (kernel, kernel, 3, count)
    assert filters.dtype == np.float32
    np.testing.assert_array_equal(filters[..., : count // 2], -filters[..., count // 2 :])

    mean, variance = channel_statistics(pixels)
    scaled = (pixels / 255 - mean) / np.sqrt(variance)
    windows = np.lib.stride_tricks.sliding_window_view(scaled, (kernel, kernel), axis=(1, 2))
    responses = np.einsum("nyxcij,ijcf->nyxf", windows, filters[..., :8]).reshape(-1, 8)
    second_moments = responses.T @ responses / len(responses)
    np.testing.assert_allclose(second_moments, np.eye(8), atol=0.02)


def test_noise_is_not_blown_up():
    pixels = np.repeat(np.arange(0, 240, 4, dtype=np.uint8), 12 * 12 * 3).reshape(-1, 12, 12, 3)  # flat images
    filters = whitening_filters(pixels, 2)
    assert np.isfinite(filters).all()
    assert np.abs(filters).max() <= 1 / np.sqrt(5e-4)
