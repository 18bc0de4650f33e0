"""The methods that turn activations and gradients of one layer into a heat map."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

_FLAT = 1e-6
"""A map whose values differ by no more than this fraction of the largest contains only rounding noise."""


def gradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Weights each channel by its mean gradient (Selvaraju et al. 2017, "Grad-CAM", arXiv:1610.02391, eq. 1, 2).

    Args:
        activations: float32 [n, channels, h, w].
        gradients: the gradients of the explained class's logit, of the same shape.

    Returns:
        float32 [n, h, w], before the ReLU.
    """
    return (gradients.mean((2, 3), keepdim=True) * activations).sum(1)


def gradcam_plus_plus(activations: Tensor, gradients: Tensor) -> Tensor:
    """Weights each cell's positive gradient (Chattopadhyay et al. 2018, "Grad-CAM++", arXiv:1710.11063, eq. 5, 19).

    The paper's second and third derivatives are powers of the first if the score is an exponential of the logit.
    Arguments and result are those of `gradcam`.
    """
    square = gradients**2
    total = activations.sum((2, 3), keepdim=True)
    # The 1e-6 is taken from the authors' code and the grad-cam package. It is not small compared with the gradients of
    # a mean over many cells, so another value would give other maps.
    alpha = torch.where(gradients != 0, square / (2 * square + total * square * gradients + 1e-6), 0.0)
    weights = (gradients.relu() * alpha).sum((2, 3), keepdim=True)
    return (weights * activations).sum(1)


def hirescam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Multiplies cell by cell, without a mean (Draelos and Carin 2020, "HiResCAM", arXiv:2011.08891, eq. 4).

    If global average pooling and one dense layer follow, gradients do not vary over the cells, and it equals Grad-CAM.
    Arguments and result are those of `gradcam`.
    """
    return (gradients * activations).sum(1)


def layercam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Weights each cell by its own positive gradient (Jiang et al. 2021, "LayerCAM", IEEE TIP 30, eq. 5, 6).

    It is designed for layers before the last. Arguments and result are those of `gradcam`.
    """
    return (gradients.relu() * activations).sum(1)


METHODS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gradcam": gradcam,
    "gradcam++": gradcam_plus_plus,
    "hirescam": hirescam,
    "layercam": layercam,
}


def heatmaps(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Keeps positive evidence for the class, resizes maps, and scales each to 0-1.

    It follows the grad-cam package: ReLU, scaling, bilinear resize, scaling.

    Args:
        maps: the maps of a method, float32 [n, h, w].
        size: height and width of the result, in pixels.

    Returns:
        float32 [n, height, width] in 0-1; a map that is flat or not finite becomes zero everywhere.
    """
    resized = F.interpolate(_stretched(maps.relu())[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    return _stretched(resized).clamp_(0, 1)


def _stretched(maps: Tensor) -> Tensor:
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    varies = (high - low > _FLAT * high) & high.isfinite()  # False for NaN
    return torch.where(varies, (maps - low) / torch.where(varies, high - low, 1.0), 0.0)
