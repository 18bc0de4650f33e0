"""Re-estimates the moving statistics of batch normalisation from batches, for short training runs.

A moving average starts from the values that a layer was built or loaded with, and with momentum m it still contains
m^n of them after n steps. A run of a few steps ends before they have faded and before the average is close to the
statistics under the last weights. The model then normalises with statistics that fit no network, and its
predictions are arbitrary.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import torch
from torch import Tensor

from kcv.distributed.group import SINGLE_PROCESS, Group
from kcv.native.model import NativeModel, parts_of


def learning(core: keras.Model) -> list[Any]:
    """Returns the layers whose moving statistics training updates."""
    return [
        layer
        for layer in core._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
    ]


def share_of_beginning(core: keras.Model, steps: int) -> float:
    """Returns the fraction (0-1) of the moving statistics that still comes from before the first of `steps` steps.

    0 if no layer has moving statistics.
    """
    return max((float(layer.momentum) ** steps for layer in learning(core)), default=0.0)


def re_estimate(model: NativeModel, images: Iterable[Tensor], group: Group = SINGLE_PROCESS) -> None:
    """Replaces the moving statistics with the mean over some batches, under the current weights.

    Batches pass through in training mode, so that each layer sees the same inputs as in training; nothing else changes
    except the state of random layers. Batch k (from 0) updates the statistics with momentum k / (k + 1), which yields
    the mean.

    Args:
        model: the fitted model, whose core contains the layers.
        images: batches on the model's device; each process has its own part.
        group: the processes, which all have the same statistics afterwards.
    """
    layers = learning(model.core)
    momenta = [layer.momentum for layer in layers]
    count = 0
    try:
        with torch.no_grad():
            for batch in images:
                for part, _, _ in parts_of((batch, None, None), len(batch), model.parts):
                    for layer in layers:
                        layer.momentum = count / (count + 1)
                    _pass(model, part)
                    count += 1
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
    group.start_all_reduce_mean(
        [moving.value for layer in layers for moving in (layer.moving_mean, layer.moving_variance)]
    )()


def _pass(model: NativeModel, images: Tensor) -> None:
    # Not through the compiled program: it would compile again for each momentum.
    if model.program is None:
        model.core(images, training=True)
    else:
        model.program(images, training=True)
