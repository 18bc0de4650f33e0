"""Training: configuration -> data -> model -> fit -> artifact."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import numpy as np
import torch

from kcv.common.launch import Launch
from kcv.config import Config
from kcv.data import loading
from kcv.data.dataset import Dataset, Images, Pixels
from kcv.distributed.connecting import connect
from kcv.distributed.group import Group
from kcv.models import registry
from kcv.models.pretrained import Pretrained
from kcv.models.weights.loading import load as load_weights
from kcv.native.device import describe_device, device_scope, resolve_device
from kcv.native.memory import enough_memory, keep_freed_memory
from kcv.native.precision import precision_scope, resolve_precision
from kcv.tasks.report import report
from kcv.training import environment
from kcv.training.finalize import Result
from kcv.training.fitting import Watch, fit, open_batches
from kcv.training.resume.stop_request import Stopping
from kcv.training.run_folder import Run
from kcv.training.run_setup import OpenRun, open_run, opened_by_first, require_space
from kcv.training.stage_fit import syncs_batchnorm
from kcv.training.stages import plan
from kcv.training.starting import Start, start

_log = logging.getLogger(__name__)

_MOST_FITTING_IMAGES = 5_000
_MOST_FITTING_PIXELS = 20_000_000
"""How much of the training split normalisation and whitening are fitted to; their moments do not change with more."""


def train(
    config: Config | None = None, *, resume: str | Path | None = None, named: Collection[str] | None = None
) -> Run:
    """Trains a model and leaves a run folder, or continues a run that was cut short.

    A continued run ends as it would have ended: the same weights, history and figures to the bit, on the same machine.

    Under torchrun all processes call it, share each batch, and return the same; the first one writes and speaks.

    Args:
        config: what to train on what, and how; see `kcv.Config`. By default the defaults, or those of the run.
        resume: the folder of a run to continue.
        named: the keys of `config`, dotted, that the caller has chosen, where the others are of that folder; None: all
            of them. A run that somebody else may have begun is continued with a tracking store or data elsewhere only
            where `tracking.uri` and `data.source` are among them.

    Returns:
        The finished run: its folder, model file and metrics.

    Raises:
        KcvError: when the data, device, tracking store or output folder cannot be used, or training diverges; when the
            run to continue began with another configuration or other data.
        KeyboardInterrupt: after Ctrl-C or SIGTERM; there is a checkpoint of the last step then.
    """
    stopping = Stopping(patient=Launch.current().several)
    with stopping.listening(), connect() as group, ExitStack() as held, enough_memory():
        begin = group.first_does(lambda: start(config, resume, named, held))
        return begin if isinstance(begin, Run) else _train(begin, stopping, held, group)


def _train(opening: Start, stopping: Stopping, held: ExitStack, group: Group) -> Run:
    began = time.perf_counter()
    config, folder, record = opening.config, opening.folder, opening.record
    device = resolve_device(config.device)
    if device == "cpu":
        keep_freed_memory()
    learns = config.model.mode == "fine_tuning"
    depthwise = learns and registry.get(config.model.name).depthwise
    policy, reason = resolve_precision(config.precision, device, trains_depthwise=depthwise)
    begin = opening.state.of_process(group.rank, group.size) if opening.state else None
    with group.in_turn():
        pretrained = load_weights(config.model)
        dataset = loading.load(config.data, began_in=opening.began_in)
    _log.info("data       %s", _describe_data(dataset))
    for line in dataset.understood:
        _log.info("           %s", line)
    _log.info("device     %s (%s), %s: %s", device, describe_device(device), policy, reason)
    if group.several:
        synced = "the whole batch" if syncs_batchnorm(config, group.size) else "each process's part"
        _log.info("processes  %d, which share each batch; batch normalisation by %s", group.size, synced)
    surroundings = environment.describe(
        device=device,
        precision=policy,
        seed=config.seed,
        data_fingerprint=dataset.fingerprint,
        weights=pretrained.source if pretrained else None,
    )
    if record is not None:
        record.require_data(dataset)
        record.require_machine(surroundings)
    with open_batches(config, dataset, device, group) as batches, device_scope(device), precision_scope(policy):
        model = _build(config, dataset, pretrained)
        # So far all have drawn the same numbers; what layers drop must not be the same.
        if group.several:
            torch.manual_seed(config.seed + group.rank)

        def begin_run() -> OpenRun:
            require_space(folder.path if folder else Path(config.output_dir or "runs"), model, config)
            # From here on there is a run: all that a wrong configuration can break has been tried.
            return open_run(config, dataset, surroundings, held, folder, record)

        opened = opened_by_first(group, begin_run, config)
        with opened.recorded():
            variant = registry.variant_of(config.model, pretrained)
            result = Result(config, dataset, model, variant, policy, opened.folder, group)
            if begin is not None:
                result.recall()
                _log.info("resume     epoch %d, step %d", begin.epoch + 1, begin.step)
            history = opened.folder.history if group.first else None
            watch = Watch(history, opened.tracker, result.save, opened.writer() if group.first else None, stopping)
            identity = _identity(config, dataset, result.variant, policy, device)
            fitted = fit(model, batches, config, watch, identity=identity, begin=begin)
            figures = result.finish(fitted)
            if group.first:
                report(opened.folder.path)
                opened.folder.close()  # here the run is finished; what is left is told, and waits where nobody listens
            opened.tracker.log_metrics(_scalars(figures), step=fitted.best_epoch)
            opened.tracker.log_artifacts(opened.folder.path)
    return Run(
        directory=opened.folder.path,
        model_path=opened.folder.model,
        metrics=figures,
        history=fitted.rows,
        best_epoch=fitted.best_epoch,
        seconds=time.perf_counter() - began,
        tracking=opened.tracker.location,
        environment=surroundings,
    )


def _build(config: Config, dataset: Dataset, pretrained: Pretrained | None) -> keras.Model:
    keras.utils.set_random_seed(config.seed)
    model = registry.build(
        config.model,
        dataset.image_size,
        len(dataset.class_names),
        _sample(dataset.train),
        pretrained,
        class_names=dataset.class_names,
    )
    if registry.get(config.model.name).imagenet or pretrained or plan(config)[0].frozen:
        _log.info("weights    %s", pretrained.source if pretrained else "random")
    return model


def _identity(config: Config, dataset: Dataset, variant: str | None, policy: str, device: str) -> tuple[str, ...]:
    """Returns what decides frozen features, beside the backbone and which images there are."""
    versions = environment.versions()
    computation = (policy, device, *(versions[name] for name in ("kcv", "torch", "keras")), version("pillow"))
    pixels = (dataset.fingerprint, dataset.image_size, dataset.resize)
    return tuple(map(str, (config.model.name, variant, *pixels, *computation)))


def _sample(images: Images) -> Pixels:
    """Returns training images spread evenly over the split, uint8 [n, size, size, 3]."""
    count = min(len(images), _MOST_FITTING_IMAGES, max(1, _MOST_FITTING_PIXELS // images.size**2))
    indices = loading.representative(images, count)
    if images.pixels is not None:
        return images.pixels[indices]
    return np.stack([images.read(int(index)) for index in indices])


def _describe_data(dataset: Dataset) -> str:
    counts = [f"{len(dataset.train):,} train", f"{len(dataset.val):,} val"]
    counts.append(f"{len(dataset.test):,} test" if dataset.test else "no test split")
    place = "in memory" if dataset.in_memory else "streamed from disk"
    size = dataset.image_size
    return f"{dataset.name}: {', '.join(counts)} images of {len(dataset.class_names)} classes at {size} px, {place}"


def _scalars(figures: dict[str, Any]) -> dict[str, float]:
    """Returns the plain numbers among the metrics, named for their split."""
    return {
        f"{figures['split']}_{key}": float(value)
        for key, value in figures.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
