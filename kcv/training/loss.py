"""The training loss where it is not plain cross-entropy: weights of classes, and the focal loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kcv.config import OptimConfig
from kcv.data.dataset import Labels
from kcv.errors import ConfigError, nearest

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""From targets and logits, float32 [b, classes] both, to the mean loss of a batch, a float32 scalar."""

_MOST_NAMES = 12  # class names shown in a message


def class_weights(
    asked: str | Mapping[str, float], labels: Labels, class_names: Sequence[str]
) -> NDArray[np.float64] | None:
    """Returns the weight of each class in the training loss, float64 [classes]; None if all are equal.

    `balanced` is inverse to the number of training images, as in scikit-learn's `compute_class_weight`: n / (classes x
    images of the class). `sqrt` is inverse to its square root. In both the mean weight over the training images is 1,
    so that learning rates keep their meaning. Weights by name are used as they are; a class without one has 1.

    Args:
        asked: the value of `data.class_weights`.
        labels: the labels of the training split, int64 [n].
        class_names: what the labels point into.

    Raises:
        ConfigError: a class is weighted that the data do not have.

    Example:
        >>> class_weights("balanced", np.array([0, 0, 0, 1]), ("cat", "dog"))
        array([0.66666667, 2.        ])
    """
    if asked == "none":
        return None
    if not isinstance(asked, str):
        unknown = [name for name in asked if name not in class_names]
        if unknown:
            some = ", ".join(map(repr, class_names[:_MOST_NAMES])) + (", ..." if len(class_names) > _MOST_NAMES else "")
            hint = nearest(unknown[0], class_names)
            raise ConfigError([f"data.class_weights: there is no class {unknown[0]!r}, allowed: {some}.{hint}"])
        return np.array([asked.get(name, 1.0) for name in class_names])
    counts = np.bincount(labels, minlength=len(class_names)).astype(np.float64)
    inverse = 1 / np.maximum(counts, 1) ** (1.0 if asked == "balanced" else 0.5)
    weights: NDArray[np.float64] = inverse * counts.sum() / (inverse * counts).sum()
    return weights


def build_loss(
    config: OptimConfig, weights: NDArray[np.float64] | None, device: torch.device | str = "cpu"
) -> Loss | None:
    """Returns the training loss of a configuration; None for plain cross-entropy.

    Targets may be soft: smoothed, or mixed by mixup or CutMix. The weight of an image is the mean of its classes'
    weights, in the proportion in which it shows them; the part that smoothing has spread over all classes has no say.
    The loss of a batch is the sum of its images' weighted losses, divided by the number of images, as in Keras.

    Args:
        config: the loss, its gamma, and the smoothing that is in the targets.
        weights: weights of the classes, float64 [classes], or None.
        device: the device of the batches.
    """
    focal = config.loss == "focal" and config.focal_gamma > 0
    if weights is None and not focal:
        return None
    fixed = None if weights is None else torch.from_numpy(weights).float().to(device)
    gamma = config.focal_gamma

    def loss(targets: Tensor, logits: Tensor) -> Tensor:
        each = focal_loss(targets, logits, gamma) if focal else cross_entropy(targets, logits)
        if fixed is None:
            return each.mean()
        return (each * image_weights(targets, fixed, config.label_smoothing)).mean()

    return loss


def image_weights(targets: Tensor, weights: Tensor, smoothing: float) -> Tensor:
    """Returns the weight of each image, float32 [b].

    Smoothed targets are (1 - s) y + s / classes. The weights are those of y, which is one-hot, or mixed from several.

    Args:
        targets: float32 [b, classes], smoothed.
        weights: float32 [classes].
        smoothing: s, at least 0 and below 1.
    """
    return (targets @ weights - smoothing * weights.mean()) / (1 - smoothing)


def cross_entropy(targets: Tensor, logits: Tensor) -> Tensor:
    """Returns the cross-entropy of each image in nats, float32 [b]."""
    return -(targets * torch.log_softmax(logits, dim=1)).sum(dim=1)


def focal_loss(targets: Tensor, logits: Tensor, gamma: float) -> Tensor:
    """Returns the focal loss of each image in nats, float32 [b]: the sum over classes of -t (1 - p)^gamma log p.

    Lin et al. 2017, "Focal Loss for Dense Object Detection" (arXiv:1708.02002), equation 4, over softmax probabilities
    and for targets t that may be soft, as in `keras.losses.CategoricalFocalCrossentropy` with alpha = 1. Their alpha
    is what `data.class_weights` is here. With gamma = 0 it is cross-entropy.
    """
    log_p = torch.log_softmax(logits, dim=1)
    # (1 - p)^gamma has no finite gradient at p = 1 where gamma < 1.
    rest = (-torch.expm1(log_p)).clamp_min(torch.finfo(log_p.dtype).tiny)
    return -(targets * rest**gamma * log_p).sum(dim=1)
