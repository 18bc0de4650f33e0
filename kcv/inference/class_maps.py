"""Heat maps of an ONNX model without torch: where the features that speak for a class are.

Behind the last feature map every network of kcv has global average pooling and one dense layer. The gradient of a
class's logit is then the same in all cells of a channel: the channel's weight in the dense layer over the number of
cells. Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391) is therefore the class activation map of Zhou et al. (2016,
arXiv:1512.04150): the feature maps, weighted by the class's row of the dense layer. Max pooling in between changes
nothing, since it passes the gradient of each of its cells on as a whole.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_FLAT = 1e-6
"""A map whose values differ by no more than this fraction of the largest contains only rounding noise."""


def class_maps(
    features: NDArray[np.float32], weights: NDArray[np.float32], classes: NDArray[np.int64], size: int
) -> NDArray[np.float32]:
    """Returns the heat maps of classes, as Grad-CAM draws them.

    Args:
        features: the last feature map, float32 [n, channels, h, w].
        weights: the kernel of the dense layer, float32 [channels, classes].
        classes: the class to explain for each image, int64 [n].
        size: side of the result, in pixels.

    Returns:
        float32 [n, size, size] in 0-1; a map that is flat or not finite becomes zero everywhere.
    """
    with np.errstate(all="ignore"):
        raw = np.einsum("nchw,cn->nhw", features, weights[:, classes], dtype=np.float64, casting="same_kind")
        maps = _stretched(np.maximum(raw, 0))
        rows, columns = (_resizing(count, size) for count in maps.shape[1:])
        return np.clip(_stretched(rows @ maps @ columns.T), 0, 1).astype(np.float32)


def _stretched(maps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scales each map, [n, h, w], to 0-1."""
    low, high = maps.min(axis=(1, 2), keepdims=True), maps.max(axis=(1, 2), keepdims=True)
    varies = (high - low > _FLAT * high) & np.isfinite(high)
    found: NDArray[np.float64] = np.where(varies, (maps - low) / np.where(varies, high - low, 1.0), 0.0)
    return found


def _resizing(cells: int, size: int) -> NDArray[np.float64]:
    """Returns the matrix [size, cells] of bilinear interpolation between the centres of cells."""
    place = np.maximum((np.arange(size) + 0.5) * cells / size - 0.5, 0.0)
    before = np.minimum(np.floor(place).astype(np.int64), cells - 1)
    after = np.minimum(before + 1, cells - 1)
    share = place - before
    matrix = np.zeros((size, cells))
    np.add.at(matrix, (np.arange(size), before), 1 - share)
    np.add.at(matrix, (np.arange(size), after), share)
    return matrix
