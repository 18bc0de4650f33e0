"""One stage of a training through Keras' `fit`: the compiled twin, its optimizer, and the callbacks in their order."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from kcv.config import Config
from kcv.data.batches import InferenceBatches, TrainingBatches
from kcv.inference import outputs
from kcv.models.backbone import Backbone
from kcv.native.logs import LazyCallbackList
from kcv.native.model import NativeModel, native_target
from kcv.native.parallel import ParallelModel, parallel_target
from kcv.training.callbacks.average_metrics import CommonLogs
from kcv.training.callbacks.best import BestModel
from kcv.training.callbacks.checkpoint import Checkpoint
from kcv.training.callbacks.csv_logger import HistoryFile
from kcv.training.callbacks.early_stopping import Patience
from kcv.training.callbacks.epoch_timer import EpochClock
from kcv.training.callbacks.statistics import FreshStatistics
from kcv.training.callbacks.terminate_on_nan import FiniteLoss
from kcv.training.feature_batches import FeatureBatches
from kcv.training.features import FeatureStore
from kcv.training.optimizer import build_optimizer
from kcv.training.resume.state import State
from kcv.training.stages import Stage, learns_batch_norm

if TYPE_CHECKING:
    from kcv.training.fitting import Batches, Watch

_log = logging.getLogger(__name__)

_FEW = 32
"""Images a process below which the statistics of a part are too coarse (Wu & He 2018, arXiv 1803.08494, fig. 1)."""


@dataclass
class StageFit:
    """Fits one stage after the other.

    Attributes:
        backbone: of the model, which is uncompiled and stays so.
        batches: what to train on and what to choose the epoch by.
        config: of the run.
        watch: what looks after the training.
        reporting: the callbacks that all stages share.
        identity: see `kcv.training.features.FeatureStore`.
        good: the state to return to, where a stage fails; None where none is kept.
    """

    backbone: Backbone
    batches: Batches
    config: Config
    watch: Watch
    reporting: Sequence[keras.callbacks.Callback]
    identity: Sequence[str]
    good: State | None = None

    def run(self, stage: Stage, begin: State | None) -> None:
        """Trains from the stage's first epoch, or from a state within it.

        Raises:
            Diverged: the loss is no longer a number.
            KeyboardInterrupt: somebody wanted the training to stop; there is a checkpoint of the last step.
        """
        core, train, val = self._prepare(stage)
        describe(self.backbone.model)
        # The compiled twin shares layers and variables; the model itself stays free of optimizer and metrics, so that
        # its file opens without kcv.
        twin = self._twin(core, compile_on_gpu=self.config.train.compile and not stage.frozen)
        rate = begin.plain["rate"] if begin else 1.0
        self._compile(twin, stage, len(train), rate)
        callbacks, remembering = self._callbacks(core, train, may_stop=stage.last)
        checkpoint = Checkpoint(
            self.backbone.model,
            train,
            remembering,
            self.watch.writer,
            self.watch.stopping,
            wanted=self.config.train.checkpoint_seconds is not None,
            group=self.batches.group,
            begin=begin,
            rate=rate,
            keep_good=self.config.train.on_divergence == "rollback",
        )
        train.set_epoch(stage.first)  # Keras looks at a first batch when it builds
        try:
            twin.fit(
                train.loader(),
                validation_data=val.loader(),
                epochs=stage.end,
                initial_epoch=begin.epoch if begin else stage.first,
                callbacks=LazyCallbackList([*callbacks, checkpoint], model=twin, epochs=stage.end, steps=len(train)),
                shuffle=False,  # the batches shuffle themselves; Keras warns of the default
                verbose=0,
            )
        finally:
            self.good = checkpoint.good

    def _prepare(
        self, stage: Stage
    ) -> tuple[keras.Model, TrainingBatches | FeatureBatches, InferenceBatches | FeatureBatches]:
        """Freezes or unfreezes the backbone; returns what is fitted, and on what."""
        model, batches = self.backbone.model, self.batches
        if not stage.frozen:
            self.backbone.unfreeze(batch_norm=learns_batch_norm(self.config))
            return model, batches.train, batches.val
        self.backbone.freeze()
        device, epochs = outputs.model_device(model).type, stage.end - stage.first
        group = self.batches.group
        store = FeatureStore(self.backbone.features(), self.config, self.identity, device, epochs, group)
        return self.backbone.head(), store.training(batches.train), store.validation(batches.val)

    def _twin(self, core: keras.Model, *, compile_on_gpu: bool) -> NativeModel:
        target, config, group = native_target(outputs.model_device(core).type), self.config, self.batches.group
        if not group.several:
            # A head alone is too small to gain by being compiled.
            split = config.train.on_out_of_memory == "split"
            return NativeModel(core, target=target, compile_on_gpu=compile_on_gpu, split=split)
        target = parallel_target(target, group, sync_batchnorm=syncs_batchnorm(config, group.size))
        return ParallelModel(core, group, target=target, compile_on_gpu=compile_on_gpu)

    def _compile(self, twin: NativeModel, stage: Stage, steps: int, rate: float) -> None:
        schedule = stage.schedule(self.config.optim)
        twin.compile(
            optimizer=build_optimizer(
                schedule.model_copy(update={"lr": schedule.lr * rate}),
                steps_per_epoch=steps,
                epochs=stage.end - stage.first,
                ema=self.config.train.ema,
                depths=self.backbone.depths(),
            ),
            loss=keras.losses.CategoricalCrossentropy(from_logits=True),
            metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
            jit_compile=False,
        )

    def _callbacks(
        self, core: keras.Model, train: TrainingBatches | FeatureBatches, *, may_stop: bool
    ) -> tuple[list[keras.callbacks.Callback], dict[str, Any]]:
        """Returns the callbacks in the order of who needs whom, and those that remember something by name."""
        config = self.config.train
        clock = EpochClock(train)
        remembering: dict[str, Any] = {"clock": clock}
        group = self.batches.group
        # The others read what these have changed and added.
        callbacks: list[keras.callbacks.Callback] = [clock, FiniteLoss()]
        if group.several:
            callbacks.insert(0, CommonLogs(group, train, self.batches.val))
        if config.ema is not None:
            # Before the reporting ones: the best model is one of averaged weights.
            callbacks.append(keras.callbacks.SwapEMAWeights(swap_on_epoch=True))
        if isinstance(train, TrainingBatches):  # a head on kept features has no statistics
            callbacks.append(FreshStatistics(core, train, group))
        callbacks += self.reporting
        for callback in self.reporting:
            if isinstance(callback, BestModel):
                remembering["best"] = callback
            elif isinstance(callback, HistoryFile):
                remembering["history"] = callback
        if config.patience is not None and may_stop:
            remembering["patience"] = Patience(config.monitor, config.patience)
            callbacks.append(remembering["patience"])
        return callbacks, remembering


def syncs_batchnorm(config: Config, processes: int) -> bool:
    """Whether batch normalisation takes the statistics of the whole batch where several processes share it."""
    if config.train.sync_batchnorm is not None:
        return config.train.sync_batchnorm
    return config.data.batch_size < _FEW * processes


def describe(model: keras.Model) -> None:
    """Logs how many parameters a model has, and how many of them are trained."""
    total, trained = parameters(model)
    share = "" if trained == total else f", {trained:,} of them trained"
    _log.info("model      %s, %s parameters%s", model.name, f"{total:,}", share)


def parameters(model: keras.Model) -> tuple[int, int]:
    """Returns the number of a model's parameters, and of those that are trained."""
    return int(model.count_params()), sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
