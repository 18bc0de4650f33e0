"""Training: configuration -> data -> model -> fit -> artifact."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import keras
import torch

from kcv.common.launch import Launch
from kcv.config import Config
from kcv.distributed.connecting import connect
from kcv.distributed.group import Group
from kcv.native.device import device_scope
from kcv.native.memory import enough_memory
from kcv.native.precision import precision_scope
from kcv.tasks.report import report
from kcv.tracking import Tracker
from kcv.training.extensions import Extensions
from kcv.training.finalize import Result
from kcv.training.inputs import build, gather
from kcv.training.loop import TrainingContext, fit, open_batches
from kcv.training.own_model import digest_of
from kcv.training.resume.record import OwnSource
from kcv.training.resume.stop_request import StopRequest
from kcv.training.run_folder import Run
from kcv.training.run_setup import ActiveRun, open_on_main_process, open_run, require_space
from kcv.training.starting import Start, start
from kcv.training.time_budget import Clock

_log = logging.getLogger(__name__)


def train(
    config: Config | None = None,
    *,
    resume: str | Path | None = None,
    model: keras.Model | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    metrics: Sequence[keras.metrics.Metric] = (),
    tracker: Tracker | None = None,
    named: Collection[str] | None = None,
    began: float | None = None,
) -> Run:
    """Trains a model and leaves a run folder, or continues a run that was cut short.

    A continued run ends as it would have ended: the same weights, history and figures bit for bit, on the same machine.
    That holds with a model, callbacks and metrics of your own as well, if they are passed again.

    Under torchrun all processes call it, share each batch, and return the same; the first one writes and speaks.

    Args:
        config: what to train on what, and how; see `kcv.Config`. By default the defaults, or those of the run.
        resume: the folder of a run to continue.
        model: a functional Keras model in place of the configured one, uncompiled: RGB 0-255 of its own fixed size in,
            float32 logits out, one for each class; of Keras' own layers, as its file would not open otherwise. It is
            trained in place. It decides `data.image_size` and `precision`; the section `model` must be as it is by
            default. Under torchrun the first process's weights are all processes' weights. A function that builds such
            a model can be named instead: `Config.load(model="my_net.py:build")`.

                inputs = keras.Input((32, 32, 3))
                x = keras.layers.Rescaling(1 / 255)(inputs)
                x = keras.layers.Conv2D(32, 3, activation="relu")(x)
                x = keras.layers.GlobalAveragePooling2D()(x)
                kcv.train(config, model=keras.Model(inputs, keras.layers.Dense(10)(x)))

        callbacks: Keras callbacks, which run on the compiled model; where a run has two stages, in each of them. What
            one adds to the logs of an epoch is written to `history.csv`, shown and tracked. The learning rate is the
            schedule's, and not theirs to set. With `state_dict()` and `load_state_dict(state)` a callback takes part in
            checkpoints (see `kcv.training.resume.user_state` for what may be in it; one that keeps nothing returns
            {}). In a continued run `on_train_begin` and, of the epoch in which it was cut, `on_epoch_begin` are called
            again, and then the state is put back. One without the two makes a run that says, in a line at its start and
            as `resumable` in its `environment.json`, that it cannot be continued bit for bit. Under torchrun they run
            in all processes, and must decide alike; the state is the first one's.

                class Count(keras.callbacks.Callback):
                    steps = 0

                    def on_train_batch_end(self, batch, logs=None):
                        self.steps += 1

                    def state_dict(self):
                        return {"steps": self.steps}

                    def load_state_dict(self, state):
                        self.steps = state["steps"]

                kcv.train(config, callbacks=[Count()])

        metrics: Keras metrics, computed from one-hot targets (which augmentation and label smoothing may have mixed)
            and logits, beside loss and accuracy: in the progress line, the tracker, the learning curves, further
            columns of `history.csv`, and as a choice of `train.monitor`. Of several processes they are averaged,
            weighted by the images of each.

                top5 = keras.metrics.TopKCategoricalAccuracy(5, name="top5")
                kcv.train(kcv.Config.load(data="cifar10", **{"train.monitor": "val_top5"}), metrics=[top5])

        tracker: records the run in place of what `tracking` asks for; see `kcv.tracking.Tracker` for what it needs.

                from kcv.tracking import NoTracker

                class Printer(NoTracker):
                    def log_metrics(self, metrics, step):
                        print(step, dict(metrics))

                kcv.train(config, tracker=Printer())

        named: the keys of `config`, dotted, that the caller has chosen, where the others are of that folder; None: all
            of them. A run that somebody else may have begun is continued with a tracking store or data elsewhere only
            where `tracking.uri` and `data.source` are among them.

        began: when the command began, as `time.perf_counter()` counts, for `train.minutes`; None: now.

    Returns:
        The finished run: its folder, model file and metrics.

    Raises:
        KcvError: when the data, device, tracking store or output folder cannot be used, or training diverges; when the
            run to continue began with another configuration, other data or other callbacks and metrics; when what was
            passed cannot be used. Whatever is wrong with what was passed is found before there is a run folder.
        KeyboardInterrupt: after Ctrl-C or SIGTERM; there is a checkpoint of the last step then.
    """
    extensions = Extensions(model, tuple(callbacks), tuple(metrics), tracker)
    stop_request = StopRequest(ignore_repeats=Launch.current().is_distributed)
    with stop_request.listening(), connect() as group, ExitStack() as held, enough_memory():
        begin = group.run_on_main_process(lambda: start(config, resume, named, held, extensions))
        if isinstance(begin, Run):
            return begin
        return _train(begin, extensions, stop_request, held, group, Clock(begin.config.train.minutes, began))


def _train(
    begin: Start, extensions: Extensions, stop_request: StopRequest, held: ExitStack, group: Group, clock: Clock
) -> Run:
    began = time.perf_counter()
    inputs = gather(begin, extensions, group, clock)
    config, dataset, function = inputs.config, inputs.dataset, inputs.function
    folder, record = begin.folder, begin.record
    resume_from = begin.state.of_process(group.rank, group.world_size) if begin.state else None
    device, policy = inputs.device, inputs.policy
    with open_batches(config, dataset, device, group) as batches, device_scope(device), precision_scope(policy):
        model = build(inputs, group)
        if record is not None and function is not None:
            record.require_structure(digest_of(model))
        extensions.try_metrics(len(dataset.class_names), device)
        # So far all have drawn the same numbers; what layers drop must not be the same.
        if group.is_distributed:
            torch.manual_seed(config.seed + group.rank)

        def begin_run() -> ActiveRun:
            require_space(folder.path if folder else Path(config.output_dir or "runs"), model, config)
            # From here on there is a run: all that a wrong configuration can break has been tried.
            given = extensions.described()
            if function is not None:
                given["own_source"] = OwnSource(sha256=function.sha256, structure=digest_of(model))
            if inputs.teacher is not None:
                given["teacher"] = inputs.teacher.digest
            return open_run(
                config, dataset, inputs.environment, held, folder, record, tracker=extensions.tracker, extensions=given
            )

        active = open_on_main_process(group, begin_run, config)
        with active.recorded():
            source = function.source if function is not None else None
            is_own = inputs.own is not None
            result = Result(config, dataset, model, inputs.variant, policy, active.folder, group, is_own, source)
            if resume_from is not None:
                result.recall()
                _log.info("resume     epoch %d, step %d", resume_from.epoch + 1, resume_from.step)
            context = TrainingContext(
                history=active.folder.history if group.is_main_process else None,
                tracker=active.tracker,
                save=result.save,
                writer=active.writer() if group.is_main_process else None,
                stop_request=stop_request,
                callbacks=extensions.callbacks,
                metrics=extensions.metrics,
                higher=extensions.higher_is_better(config.train.monitor),
                teacher=inputs.teacher,
            )
            fitted = fit(model, batches, config, context, identity=inputs.identity, resume_from=resume_from)
            figures = result.finish(fitted)
            if group.is_main_process:
                report(active.folder.path)
                active.folder.close()  # the run is complete; only tracking remains, and it may lag
                active.log_model()
            active.tracker.log_metrics(_scalars(figures), step=fitted.best_epoch)
            active.tracker.log_artifacts(active.folder.path)
    return Run(
        directory=active.folder.path,
        model_path=active.folder.model,
        metrics=figures,
        history=fitted.rows,
        best_epoch=fitted.best_epoch,
        seconds=time.perf_counter() - began,
        tracking=active.tracker.location,
        environment=inputs.environment,
    )


def _scalars(figures: dict[str, Any]) -> dict[str, float]:
    """Returns the plain numbers among the metrics, named for their split."""
    return {
        f"{figures['split']}_{key}": float(value)
        for key, value in figures.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
