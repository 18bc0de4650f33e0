"""A training step that asks nothing of the host, so that a GPU never waits for it and the step can be recorded.

Keras' loss, metrics and optimizers put Python numbers on the device in every step. Each of these copies makes the host
wait until the device has done all that was started before. Here such numbers are either part of the operation, or
written to the device without waiting.

A CPU waits for nothing, but a step is shorter there, too, without Keras' checks and conversions: by 3 ms of 82 for
EfficientNet-B0 (64 px, batch 32).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import torch
from torch import Tensor

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From images, targets and logits to the loss of a batch, a scalar."""


class DeviceStep:
    """Forward pass, loss, gradients, update and running metrics of a classifier, as torch operations alone.

    Args:
        forward: from images to logits, in training mode.
        loss: the training loss.
        variables: what is trained.
        optimizer: a built `kcv.native.optimizers.Fused`.
        running: the running mean of the loss.
        accuracy: the running accuracy; None if the caller updates the metrics.

    Attributes:
        accuracy: as given.

    Example:
        step = DeviceStep(forward, loss, variables, optimizer, running, accuracy)
        optimizer.begin_update()
        logits = step(images, targets)
        optimizer.end_update()
    """

    def __init__(
        self,
        forward: Callable[[Tensor], Tensor],
        loss: Loss,
        variables: Sequence[keras.Variable],
        optimizer: Any,
        running: keras.metrics.Mean,
        accuracy: keras.metrics.Mean | None,
    ) -> None:
        self._forward = forward
        self._loss = loss
        self._variables = list(variables)
        self._optimizer = optimizer
        self._running = running
        self.accuracy = accuracy

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        """Performs the step on one batch; returns its logits, without gradients."""
        parameters = [variable.value for variable in self._variables]
        for parameter in parameters:
            parameter.grad = None  # what a batch that did not fit has left
        logits = self._forward(images)
        loss = self._loss(images, targets, logits)
        torch.autograd.backward(loss)
        gradients = [parameter.grad for parameter in parameters]
        # Torch accumulates into existing gradients.
        for parameter in parameters:
            parameter.grad = None
        known = [(g, v) for g, v in zip(gradients, self._variables, strict=True) if g is not None]
        self._optimizer.update([g for g, _ in known], [v for _, v in known])
        with torch.no_grad():
            _count(self._running, loss.detach() * len(images), len(images))
            if self.accuracy is not None:
                right = (logits.argmax(dim=-1) == targets.argmax(dim=-1)).sum(dtype=torch.float32)
                _count(self.accuracy, right, len(images))
        return logits.detach()

    def state(self) -> list[Tensor]:
        """Returns all tensors that the step reads and changes and that outlive it, in a fixed order."""
        metrics = [self._running] + ([] if self.accuracy is None else [self.accuracy])
        kept = [*self._variables, *self._optimizer.variables, *(v for metric in metrics for v in metric.variables)]
        return [variable.value for variable in kept]


def _count(metric: keras.metrics.Mean, total: Tensor, images: int) -> None:
    metric.total.value.add_(total)
    metric.count.value.add_(images)


def plain_cross_entropy(loss: Any) -> Loss | None:
    """Returns a Keras loss as torch operations, if it is the mean cross-entropy of logits; otherwise None."""
    if type(loss) is not keras.losses.CategoricalCrossentropy:
        return None
    config = loss.get_config()
    wanted = {"from_logits": True, "label_smoothing": 0.0, "axis": -1, "reduction": "sum_over_batch_size"}
    if any(config[name] != value for name, value in wanted.items()):
        return None
    return lambda images, targets, logits: -(targets * torch.log_softmax(logits.float(), dim=-1)).sum(dim=-1).mean()


def plain_accuracy(metrics: Sequence[keras.metrics.Metric]) -> keras.metrics.Mean | None:
    """Returns the metric if it is the accuracy of one-hot targets and the only one; otherwise None."""
    return metrics[0] if len(metrics) == 1 and type(metrics[0]) is keras.metrics.CategoricalAccuracy else None
