"""From activations and gradients of one layer to a heat map: what each method makes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

_FLAT = 1e-6
"""A map whose values differ by less than this part of the largest holds nothing but the noise of rounding."""


def gradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Weighs each channel with its mean gradient (Selvaraju et al. 2017, "Grad-CAM", arXiv:1610.02391, eq. 1, 2).

    Args:
        activations: float32 [n, channels, h, w].
        gradients: of the explained class's logit, of the same shape.

    Returns:
        float32 [n, h, w], before the ReLU.
    """
    return (gradients.mean((2, 3), keepdim=True) * activations).sum(1)


def gradcam_plus_plus(activations: Tensor, gradients: Tensor) -> Tensor:
    """Weighs each cell's positive gradient (Chattopadhyay et al. 2018, "Grad-CAM++", arXiv:1710.11063, eq. 5, 19).

    The paper's second and third derivatives are powers of the first where the score is an exponential of the logit.
    Arguments and result as of `gradcam`.
    """
    square = gradients**2
    total = activations.sum((2, 3), keepdim=True)
    # The 1e-6 is that of the authors' and the grad-cam package's code. It is not small against the gradients of a mean
    # over many cells, so another number would give other maps.
    alpha = torch.where(gradients != 0, square / (2 * square + total * square * gradients + 1e-6), 0.0)
    weights = (gradients.relu() * alpha).sum((2, 3), keepdim=True)
    return (weights * activations).sum(1)


def hirescam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Multiplies cell by cell, without a mean (Draelos and Carin 2020, "HiResCAM", arXiv:2011.08891, eq. 4).

    Where global average pooling and one dense layer follow, gradients do not vary over the cells and this is Grad-CAM.
    Arguments and result as of `gradcam`.
    """
    return (gradients * activations).sum(1)


def layercam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Weighs each cell with its own positive gradient (Jiang et al. 2021, "LayerCAM", IEEE TIP 30, eq. 5, 6).

    Made for layers that are not the last. Arguments and result as of `gradcam`.
    """
    return (gradients.relu() * activations).sum(1)


METHODS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gradcam": gradcam,
    "gradcam++": gradcam_plus_plus,
    "hirescam": hirescam,
    "layercam": layercam,
}


def heatmaps(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Keeps what speaks for the class, brings maps to a size, and stretches each to 0-1.

    As the grad-cam package does it: ReLU, stretch, bilinear resize, stretch.

    Args:
        maps: float32 [n, h, w], of a method.
        size: height and width of the result, pixels.

    Returns:
        float32 [n, height, width] in 0-1; zero everywhere where a map is flat or not finite.
    """
    resized = F.interpolate(_stretched(maps.relu())[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    return _stretched(resized).clamp_(0, 1)


def _stretched(maps: Tensor) -> Tensor:
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    varies = (high - low > _FLAT * high) & high.isfinite()  # not of NaN
    return torch.where(varies, (maps - low) / torch.where(varies, high - low, 1.0), 0.0)
