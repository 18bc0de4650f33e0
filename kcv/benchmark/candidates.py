"""The three implementations of a training step that are timed against each other.

All do the same work on the same batch: uint8 images, cross-entropy, AdamW, running loss and accuracy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kcv.benchmark import networks
from kcv.distributed.group import Group
from kcv.errors import KcvError
from kcv.native.logs import LazyCallbackList
from kcv.native.model import NativeModel, compile_classifier, native_target
from kcv.native.optimizers import FusedAdamW
from kcv.native.parallel import ParallelModel, moving_statistics, parallel_target
from kcv.native.precision import precision_scope

CLASSES = 10
_LEARNING_RATE = 1e-4

StepFunction = Callable[[], None]


@dataclass(frozen=True)
class Setting:
    """The configuration of one measurement.

    Attributes:
        model: one of `networks.NAMES`.
        image_size: in pixels.
        batch_size: images per step.
        policy: a Keras dtype policy.
        device: a torch device.
    """

    model: str
    image_size: int
    batch_size: int
    policy: str
    device: str

    def batch(self) -> tuple[Tensor, Tensor]:
        """Returns random images, uint8 [batch, size, size, 3], and one-hot targets, float32 [batch, classes]."""
        rng = np.random.default_rng(0)
        shape = (self.batch_size, self.image_size, self.image_size, 3)
        images = torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8))
        labels = torch.from_numpy(rng.integers(0, CLASSES, self.batch_size))
        return images.to(self.device), F.one_hot(labels, CLASSES).float().to(self.device)

    @property
    def half(self) -> torch.dtype | None:
        """The dtype for autocast; None for float32."""
        return {"mixed_bfloat16": torch.bfloat16, "mixed_float16": torch.float16}.get(self.policy)


def keras_model(setting: Setting) -> keras.Model:
    """Builds the Keras model of a setting, always with the same weights."""
    keras.utils.set_random_seed(0)
    pixels = np.random.default_rng(1).integers(0, 256, (64, setting.image_size, setting.image_size, 3), dtype=np.uint8)
    with keras.device(setting.device), precision_scope(setting.policy):
        return networks.in_keras(setting.model, setting.image_size, CLASSES, pixels)


def torch_network(setting: Setting, memory_format: torch.memory_format) -> networks.Images:
    """Builds the hand-written or torchvision network of a setting."""
    torch.manual_seed(0)
    network = networks.in_torch(setting.model, keras_model(setting), CLASSES)
    images = networks.Images(network, memory_format).to(setting.device)
    return images.to(memory_format=memory_format).train()


def torch_step(setting: Setting, memory_format: torch.memory_format) -> StepFunction:
    """Returns the step of a hand-written PyTorch loop: autocast, fused AdamW, no synchronisation."""
    network = torch_network(setting, memory_format)
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=_LEARNING_RATE, fused=True)
    scaler = torch.amp.GradScaler(setting.device, enabled=setting.half == torch.float16)
    images, targets = setting.batch()
    total, correct = torch.zeros((), device=setting.device), torch.zeros((), device=setting.device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(setting.device, setting.half, enabled=setting.half is not None):
            logits = network(images)
        loss = F.cross_entropy(logits.float(), targets)
        torch.autograd.backward(scaler.scale(loss))
        scaler.step(optimizer)
        scaler.update()
        with torch.no_grad():
            total.add_(loss.detach() * len(images))
            correct.add_((logits.argmax(1) == targets.argmax(1)).sum())

    return step


def keras_step(setting: Setting) -> StepFunction:
    """Returns the step of stock Keras' `fit`, including callbacks and metrics."""
    model = keras_model(setting)
    twin = keras.Model(model.inputs, model.outputs)
    compile_classifier(twin, keras.optimizers.AdamW(_LEARNING_RATE))
    return _fit_step(twin, keras.callbacks.CallbackList([], add_history=True, model=twin, epochs=1, steps=1), setting)


def kcv_step(setting: Setting) -> StepFunction:
    """Returns the step of kcv's `fit`: the same model, run natively.

    Raises:
        KcvError: the model has no native form, so there is nothing to compare.
    """
    model = keras_model(setting)
    twin = NativeModel(model, target=native_target(setting.device, model, cpu_kernels=True))
    if twin.program is None:
        raise KcvError(f"{setting.model} runs through Keras here, not natively")
    compile_classifier(twin, FusedAdamW(_LEARNING_RATE))
    return _fit_step(twin, LazyCallbackList([], model=twin, epochs=1, steps=1), setting)


def together_step(setting: Setting, group: Group) -> tuple[StepFunction, int, int]:
    """Returns the step of several processes, and the bytes of gradients and of statistics that they exchange."""
    model = keras_model(setting)
    target = parallel_target(native_target(setting.device, model, cpu_kernels=True), group, sync_batchnorm=False)
    twin = ParallelModel(model, group, target=target)
    compile_classifier(twin, FusedAdamW(_LEARNING_RATE))
    step = _fit_step(twin, LazyCallbackList([], model=twin, epochs=1, steps=1), setting, torch.ones(()))

    def agreed() -> None:
        group.all_reduce_or(0)  # synchronise the hosts, as after each step of training
        step()

    gradients = sum(variable.value.numel() for variable in model.trainable_variables)
    return agreed, 4 * gradients, 4 * sum(tensor.numel() for tensor in moving_statistics(model))


def _fit_step(model: keras.Model, callbacks: Any, setting: Setting, *more: Tensor) -> StepFunction:
    """Returns what `fit` does between two batches, called in the same way."""
    batch = (*setting.batch(), *more)
    model._symbolic_build(data_batch=batch)
    model.make_train_function()
    callbacks.on_train_begin()
    callbacks.on_epoch_begin(0)
    model.train()

    def step() -> None:
        callbacks.on_train_batch_begin(0)
        logs = model.train_function([batch])
        callbacks.on_train_batch_end(0, logs)

    return step
