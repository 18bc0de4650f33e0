"""Filters that decorrelate the patches of the training images, for a first layer that needs no training.

Source: the first layer of Keller Jordan's airbench (arXiv:2404.00498), after tysam-code's hlb-CIFAR10.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kcv.models.inputs import channel_statistics

_MOST_IMAGES = 5_000
_MOST_PATCHES = 200_000
_MOST_COMPONENTS = 32


def whitening_filters(pixels: NDArray[np.uint8], kernel: int, epsilon: float = 5e-4) -> NDArray[np.float32]:
    """Fits whitening filters to image patches by an eigendecomposition of their covariance.

    Args:
        pixels: training images, uint8 [n, height, width, 3].
        kernel: side of the patches, in pixels.
        epsilon: added to the eigenvalues, so that directions of pure noise are not amplified.

    Returns:
        float32 [kernel, kernel, 3, filters]: the leading components (at most 32) and their negatives, because the
        activation that follows keeps only one sign. Apply them to images normalised per channel.
    """
    patches = _patches(pixels[:_MOST_IMAGES], kernel)
    eigenvalues, eigenvectors = np.linalg.eigh(patches.T @ patches / len(patches))
    leading = np.argsort(eigenvalues)[::-1][:_MOST_COMPONENTS]
    filters = eigenvectors[:, leading] / np.sqrt(eigenvalues[leading].clip(0) + epsilon)
    both = np.concatenate([filters, -filters], axis=1)
    return both.reshape(kernel, kernel, 3, -1).astype(np.float32)


def _patches(pixels: NDArray[np.uint8], kernel: int) -> NDArray[np.float64]:
    """Returns an evenly spaced sample of the normalised patches, float64 [patches, kernel * kernel * 3]."""
    mean, variance = channel_statistics(pixels)
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (kernel, kernel), axis=(1, 2))
    count = int(np.prod(windows.shape[:3]))
    chosen = np.unravel_index(np.linspace(0, count - 1, min(count, _MOST_PATCHES)).astype(np.int64), windows.shape[:3])
    patches = (windows[chosen] / 255 - mean[:, None, None]) / np.sqrt(variance)[:, None, None]
    # sliding_window_view puts the window last: reorder [patches, 3, kernel, kernel] to [patches, kernel, kernel, 3].
    return np.ascontiguousarray(patches.transpose(0, 2, 3, 1)).reshape(len(patches), -1)
