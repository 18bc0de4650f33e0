"""The moving statistics of batch normalisation, estimated anew from batches: for trainings too short for averages.

A moving average begins at the values that a layer was built or loaded with, and with momentum m it still holds m^n of
them after n steps. A training of a few steps ends before that has faded, and before the average has come near what the
last weights give: it then normalises by statistics of no network at all when it is used, and answers at random.
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
    """Returns the layers whose moving statistics training changes."""
    return [
        layer
        for layer in core._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
    ]


def share_of_beginning(core: keras.Model, steps: int) -> float:
    """Returns which part (0-1) of the moving statistics is still what it was before the first of `steps` steps.

    0 where no layer has statistics that move.
    """
    return max((float(layer.momentum) ** steps for layer in learning(core)), default=0.0)


def re_estimate(model: NativeModel, images: Iterable[Tensor], group: Group = SINGLE_PROCESS) -> None:
    """Replaces the moving statistics by the mean of those of some batches, under the weights as they are.

    Batches pass through in training mode, so that each layer sees what training shows it; nothing else changes but what
    random layers draw. Batch k (from 0) moves the statistics with momentum k / (k + 1), which makes them the mean.

    Args:
        model: the fitted model, whose core has the layers.
        images: batches on the model's device; each process has its own part of them.
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
    # Never through the compiled program: each momentum would be another one to it.
    if model.program is None:
        model.core(images, training=True)
    else:
        model.program(images, training=True)
