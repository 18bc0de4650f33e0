"""Predicts how long a run takes, from the speed of its first steps: the basis of `train.minutes`.

    seconds = fixed + epochs * epoch + slow epochs * extra

`fixed` is what happens once: decoding, features of the frozen stage, the final evaluation and its files. `epoch` is
training and validation, `extra` re-estimates the statistics of batch normalisation, which the first epochs of short
runs need (`kcv.training.callbacks.control.FreshStatistics`). Speeds are measured on this machine, on some of the run's
images, with the run's own batches, augmentation and optimizer.
"""

from __future__ import annotations

import gc
import math
import sys
import time
from dataclasses import dataclass, replace
from typing import Any, Final

import keras
import numpy as np
import torch

from kcv.config import Config
from kcv.data import loading
from kcv.data.batches import TrainingBatches
from kcv.data.dataset import Images, Pixels, Samples, Source
from kcv.data.in_memory import decode
from kcv.inference import outputs
from kcv.models import registry
from kcv.models.backbone import Backbone
from kcv.native.device import device_scope, synchronize
from kcv.native.model import NativeModel, compile_classifier, native_target
from kcv.native.precision import precision_scope
from kcv.training.callbacks.control import IMAGES_FOR_STATISTICS, steps_to_settle
from kcv.training.feature_batches import FeatureBatches
from kcv.training.features import views_kept
from kcv.training.loop import choose_precision, learns_batch_norm, plan
from kcv.training.optimizer import build_optimizer

_SECONDS: Final = 6.0
_OF_ALL: Final = 0.03
"""Time for the timed steps, and the fraction of the given time that they take at most; there are at least `_FEWEST` of
them, after `_UNTIMED` slow first ones."""
_FEWEST: Final = 4
_UNTIMED: Final = 2
_IMAGES: Final = 256

_HEAD_SECONDS: Final = 0.5
"""Time for the timed steps of a head alone."""

_PER_EPOCH: Final = 0.013
_SAVED_PER_SECOND: Final = 400e6
_SAVED: Final = 20
"""What is neither a step nor validation: seconds per epoch for callbacks, bytes per second of the model's file, and how
often it is written if the best epoch is kept. Runs of 18 to 3,225 epochs found 8 to 37 times that an epoch was the best
so far. If the last one is kept, it is written after each."""

_NO_GRADIENTS: Final = 3.0
"""Speed of a pass in training mode without gradients, relative to a training step."""

_RESERVE: Final = 0.03
"""The fraction of the time that is left unplanned, because a machine slows down as it gets warm or busy."""

_ENDING: Final = 1.0
"""Time for the plots and reports of the final evaluation, relative to what has passed when the clock is made: both are
mostly Python and imports, so that they vary from machine to machine in the same way."""


@dataclass(frozen=True)
class Counts:
    """Number of images per split; `test` is 0 if there is no test split."""

    train: int
    val: int
    test: int


class Clock:
    """Counts the time of a command. It is made when everything is imported and nothing has been read or measured.

    Args:
        minutes: the time that the command may take; None for any.
        began: when it began, as `time.perf_counter()` counts; None for now.
    """

    def __init__(self, minutes: float | None, began: float | None = None) -> None:
        self._seconds = math.inf if minutes is None else 60 * minutes * (1 - _RESERVE)
        self._began = time.perf_counter() if began is None else began
        self._ending = _ENDING * (time.perf_counter() - self._began)

    def passed(self) -> float:
        """Returns the seconds that have passed."""
        return time.perf_counter() - self._began

    def whole(self, training: float) -> float:
        """Returns the seconds of the whole command if training takes so many seconds from now on."""
        return training + self.passed() + self._ending

    def left(self) -> float:
        """Returns the seconds that are left for training, without what the end of the command takes."""
        return self._seconds - self.whole(0.0)


@dataclass(frozen=True)
class Seconds:
    """The predicted duration of a run.

    Attributes:
        fixed: seconds for what happens once.
        epoch: seconds per epoch of the stage that trains all layers; of the head, if nothing else is trained.
        slow: number of first epochs that take longer.
        extra: seconds by which they do.
    """

    fixed: float
    epoch: float
    slow: int = 0
    extra: float = 0.0

    def of(self, epochs: int) -> float:
        """Returns the predicted seconds of a number of epochs."""
        return self.fixed + epochs * self.epoch + min(epochs, self.slow) * self.extra

    def epochs_in(self, seconds: float) -> int:
        """Returns how many epochs fit into some seconds; 0 if none does."""
        left = seconds - self.fixed
        epochs = left / (self.epoch + self.extra)
        if epochs > self.slow:
            epochs = (left - self.slow * self.extra) / self.epoch
        return max(0, math.floor(epochs))


@dataclass(frozen=True)
class Rates:
    """Measured speeds, in images per second.

    Attributes:
        step: training steps, batches and augmentation included.
        forward: inference.
        decode: decoding, by all cores.
        head: training steps of the head on kept features; infinite if no stage has them.
        saving: seconds to write the model's file.
        settling: number of steps until moving statistics are no longer re-estimated after each epoch.
    """

    step: float
    forward: float
    decode: float
    head: float = math.inf
    saving: float = 0.0
    settling: int = 0

    def at(self, factor: float) -> Rates:
        """Returns the speeds of the network for images with 1 / `factor` times the pixels."""
        return replace(self, step=self.step * factor, forward=self.forward * factor)

    def seconds(self, config: Config, counts: Counts) -> Seconds:
        """Returns the predicted duration of a run; its `train.epochs` plays no part.

        Args:
            config: the configuration of the run.
            counts: the number of images.
        """
        reading = (counts.train + counts.val + counts.test) / self.decode
        measuring = (counts.val + counts.test) / self.forward
        once, each = (0, 1) if config.train.keep == "last" else (_SAVED, 0)
        fixed = reading + measuring + once * self.saving
        beside = _PER_EPOCH + each * self.saving
        head = counts.train / self.head + beside
        if plan(config)[0].frozen:
            kept, frozen = views_kept(config), config.model.unfreeze_after
            if kept is None:
                head += counts.train / self.forward
            else:
                fixed += (min(kept, frozen) if frozen else kept) * counts.train / self.forward
            fixed += counts.val / self.forward
        if config.model.mode == "feature_extraction":
            return Seconds(fixed, head)
        epoch = counts.train / self.step + counts.val / self.forward + beside
        slow = max(0, self.settling - 1) // math.ceil(counts.train / config.data.batch_size)
        extra = min(counts.train, IMAGES_FOR_STATISTICS) / (_NO_GRADIENTS * self.step) if slow else 0.0
        # The epochs of the frozen stage count as epochs, but cost less.
        frozen = config.model.unfreeze_after
        return Seconds(fixed + frozen * (head - epoch - extra), epoch, frozen + slow, extra)


class Probe:
    """Measures the speeds of a run on some of its images.

    Args:
        config: the run's configuration; it names a network.
        source: the run's data.
        train: its training images.
        device: the device type.
    """

    def __init__(self, config: Config, source: Source, train: Samples, device: str) -> None:
        self._config = config
        self._source = source
        self._train = train
        self._device = device

    def rates(self) -> Rates:
        """Measures, and leaves no trace: neither tensors, nor names of layers that later models would count on from.

        Raises:
            KcvError: the images cannot be read, or the network cannot be built for them.
        """
        config, train = self._config, self._train
        size = config.data.image_size or loading.own_size(self._source)
        few = train.take(loading.evenly(len(train), _IMAGES))
        began = time.perf_counter()
        pixels = decode(few, size, config.data.resize)
        decoded = len(few) / (time.perf_counter() - began)
        images = Images(few, size, config.data.resize, pixels)
        policy, _ = choose_precision(config, self._device)
        with device_scope(self._device), precision_scope(policy):
            rates = self._rates(images, pixels, decoded)
        keras.utils.clear_session()
        gc.collect()
        return rates

    def _rates(self, images: Images, pixels: Pixels, decoded: float) -> Rates:
        config, classes = self._config, len(self._source.class_names)
        model = registry.build(config.model, images.size, classes, pixels)
        backbone, forward = Backbone.of(model), outputs.native_forward(model)
        batches = TrainingBatches(
            images,
            num_classes=classes,
            batch_size=min(config.data.batch_size, len(images)),
            augment=config.augment,
            label_smoothing=config.optim.label_smoothing,
            seed=config.seed,
            device=self._device,
        )
        head = step = math.inf
        if plan(config)[0].frozen:
            backbone.freeze()
            fitted = backbone.head()
            any_features = np.zeros((len(images), fitted.input_shape[-1]), np.float32)
            kept = FeatureBatches(batches, forward, [any_features])
            head = self._step_rate(fitted, backbone, kept, _HEAD_SECONDS)
        if config.model.mode == "fine_tuning":
            backbone.unfreeze(batch_norm=learns_batch_norm(config))
            step = self._step_rate(model, backbone, batches, _SECONDS)
        saving = sum(weight.value.nbytes for weight in model.weights) / _SAVED_PER_SECOND
        return Rates(step, self._forward_rate(forward, pixels), decoded, head, saving, steps_to_settle(model))

    def _step_rate(
        self, fitted: keras.Model, backbone: Backbone, batches: TrainingBatches | FeatureBatches, seconds: float
    ) -> float:
        config = self._config
        timer = _StepTimer(self._device, min(seconds, _OF_ALL * 60 * (config.train.minutes or math.inf)))
        target = native_target(self._device, fitted, cpu_kernels=config.train.cpu_kernels)
        trained = NativeModel(fitted, target=target)
        optimizer = build_optimizer(config.optim, steps_per_epoch=100, epochs=10, depths=backbone.depths())
        compile_classifier(trained, optimizer)
        trained.fit(batches.loader(), epochs=sys.maxsize, callbacks=[timer], shuffle=False, verbose=0)
        return len(batches.images) / len(batches) / timer.seconds

    def _forward_rate(self, forward: outputs.Forward, pixels: Pixels) -> float:
        batch = torch.from_numpy(pixels[: outputs.batch_size_for(pixels.shape[1])]).to(self._device)
        with torch.inference_mode():
            forward(batch[:1])
            synchronize(self._device)
            began = time.perf_counter()
            forward(batch)
            synchronize(self._device)
        return len(batch) / (time.perf_counter() - began)


class _StepTimer(keras.callbacks.Callback):
    """Measures seconds per step, from the end of one to the end of another, and ends the training.

    Args:
        device: the device type.
        enough: seconds after which it ends.

    Attributes:
        seconds: seconds per step.
    """

    def __init__(self, device: str, enough: float) -> None:
        super().__init__()
        self._device = device
        self._enough = enough
        self._steps = 0
        self._began = 0.0
        self.seconds = 0.0

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Notes the time; stops once there are enough steps."""
        self._steps += 1
        timed = self._steps - _UNTIMED
        if timed == 0:
            synchronize(self._device)
            self._began = time.perf_counter()
        elif timed >= _FEWEST and time.perf_counter() - self._began >= self._enough:
            synchronize(self._device)
            self.seconds = (time.perf_counter() - self._began) / timed
            self.model.stop_training = True
