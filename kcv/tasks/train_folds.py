"""Training in folds: what a small data set says about a model, and a model of all of it.

data -> folds -> a run per fold -> out-of-fold predictions -> accuracy, suspected labels -> a final model
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kcv.common.files import expand_user, write_json
from kcv.common.launch import Launch
from kcv.common.parameters import checked
from kcv.config import AUTO, Config
from kcv.data import loading
from kcv.data.dataset import Images, Source
from kcv.data.fold import Count, Fold
from kcv.data.folds import Division, digest_of
from kcv.data.streaming import read_batch
from kcv.errors import ConfigError, DataError, KcvError, UsageError
from kcv.exporting.samples import MOST_CHECKED, Samples
from kcv.inference import opening
from kcv.inference.keras_model import LoadedModel
from kcv.inference.onnx_model import OnnxModel
from kcv.inference.out_of_fold import FILE, OutOfFold
from kcv.metrics import summarize
from kcv.metrics.folds import out_of_fold_interval
from kcv.native.device import device_scope, resolve_device
from kcv.quality.copies.folds import pool_of
from kcv.reporting.label_errors import SuspectedLabels, suspected_labels, write_label_errors
from kcv.tasks.train import train
from kcv.tracking import config_without_credentials
from kcv.training import automatic
from kcv.training.folds import ENSEMBLE, FINAL, Folds, FoldsFolder, Plan, config_of, read_figures
from kcv.training.resume.lock import lock
from kcv.training.resume.stop_request import StopRequest
from kcv.training.resume.working_folder import returned_to
from kcv.training.run_folder import Run
from kcv.training.time_budget import Clock

__all__ = ["Folds", "train_folds"]

_log = logging.getLogger(__name__)


@checked
def train_folds(
    config: Config | None = None,
    folds: Count | None = None,
    *,
    ensemble: bool = False,
    resume: str | Path | None = None,
    named: Collection[str] | None = None,
) -> Folds:
    """Trains a model per fold of the data, and then a final one, or continues where that was cut short.

    The images of train and val are divided into folds, stratified by class; copies and near-duplicates of an image
    are in one fold. For each fold a model is trained on the others, as a normal run (`fold-1` ...). A part of them
    (`data.val_fraction`) chooses its epoch and calibrates it, so that nothing about a model was chosen by the images
    that it is measured on. A test split that the data have is not touched by any of this: the final model, which is
    trained in the same way on the images of all folds, is measured on it once.

    Args:
        config: what to train on what, and how; see `kcv.Config`. By default the defaults, or those of `resume`.
        folds: how many; 5 and 10 are usual.
        ensemble: instead of training a final model, write the models of the folds as one ONNX file, whose probabilities
            are the mean of theirs. It takes as many times the time of one model to predict.
        resume: the folder of a training in folds to continue. Finished runs are not repeated.
        named: as for `kcv.train`.

    Returns:
        The figures of the out-of-fold predictions, and where all is.

    Raises:
        UsageError: several processes (torchrun), or neither `folds` nor `resume`.
        ConfigError: `train.minutes`, or `data.fold`, which are of a single run.
        DataError: the data cannot be divided; nothing is left behind.
        KcvError: as `kcv.train`.

    Example:
        >>> done = kcv.train_folds(kcv.Config.load(data="photos"), 5)
        >>> done.metrics["accuracy"], done.metrics["accuracy_ci95"]
    """
    began = time.perf_counter()
    if Launch.current().is_distributed:
        raise UsageError(
            "--folds runs in one process; with torchrun, train one fold after another: --data.fold=1/5, 2/5 ..."
        )
    stop = StopRequest()
    with stop.listening(), ExitStack() as held:
        if resume is None:
            begin = _new(config or Config(), folds, held, ensemble=ensemble)
        else:
            begin = _resumed(config, folds, resume, named, held, ensemble=ensemble)
        whole = begin.folder.whole
        if not whole.finished:
            with _told_how_to_go_on(begin.folder):
                figures = _run(begin, stop)
            write_json(whole.metrics, figures)
        whole.close()
    return Folds(whole.path, begin.model, read_figures(whole.metrics), time.perf_counter() - began)


@dataclass(frozen=True)
class _Begin:
    """What a training in folds begins, or goes on, with."""

    config: Config
    folder: FoldsFolder
    plan: Plan

    def fold(self, number: int) -> Fold:
        return Fold(number, self.plan.folds, self.plan.digest)

    @property
    def model(self) -> Path:
        return self.folder.ensemble if self.plan.ensemble else self.folder.run(0).model


def _new(config: Config, folds: int | None, held: ExitStack, *, ensemble: bool) -> _Begin:
    """Divides the data, and makes the folder."""
    if folds is None:
        raise UsageError("train_folds needs folds, their number.")
    if config.data.fold is not None:
        raise ConfigError(["data.fold: is one fold of several; leave it out with --folds."])
    if automatic.is_timed(config):
        raise ConfigError(["train.minutes: is for one run, not for --folds; set train.epochs."])
    source = loading.source_of(config.data)
    config, chosen = _completed(config, source, folds)
    found = _divide(config, source, Fold(0, folds))
    if chosen:
        _log.info("auto       %s", chosen)
    folder = FoldsFolder.create(config)
    held.enter_context(lock(folder.whole.lock))
    plan = Plan(
        folds=folds, digest=digest_of(found.assigned), fingerprint=source.fingerprint, ensemble=ensemble,
        config=config_without_credentials(config).flatten(), working_folder=str(Path.cwd()),
    )  # fmt: skip
    folder.begin(plan, config)
    _log.info("folds      %d of %s images, in %s", folds, f"{len(found.assigned):,}", folder.path)
    return _Begin(config, folder, plan)


def _resumed(
    config: Config | None,
    folds: int | None,
    resume: str | Path,
    named: Collection[str] | None,
    held: ExitStack,
    *,
    ensemble: bool,
) -> _Begin:
    """Opens the folder of a training in folds."""
    folder = FoldsFolder.existing(expand_user(resume).absolute())
    plan = Plan.read(folder.path)
    if folder.whole.finished:
        _log.info("finished   %s has come to its end before; there is nothing to go on with", folder.path)
        return _Begin(plan.require(config or Config.load(folder.whole.config), folds, ensemble=ensemble), folder, plan)
    if not plan.own and (config is None or named is not None):
        raise UsageError(
            f"--resume={resume}: nothing shows that you began these folds on this machine, so nothing in the folder is "
            "trusted; name the configuration, too: kcv train CONFIG --resume=..."
        )
    if config is None or named is not None:
        held.enter_context(returned_to(plan.working_folder, resume, "the folds"))
    config = plan.require(config or Config.load(folder.whole.config), folds, ensemble=ensemble)
    held.enter_context(lock(folder.whole.lock))
    return _Begin(config, folder, plan)


def _divide(config: Config, source: Source, fold: Fold) -> Division:
    return loading.division_of_source(source, config.data.model_copy(update={"fold": str(fold)}))


def _completed(config: Config, source: Source, folds: int) -> tuple[Config, str | None]:
    """Returns the configuration with what `auto` chooses, once for all runs, and a line about the choice."""
    if config.model.name != AUTO:
        return config, None
    whole = config.model_copy(update={"data": config.data.model_copy(update={"fold": str(Fold(0, folds))})})
    found, chosen = automatic.resolve(whole, source, resolve_device(config.device), Clock(None))
    return found.model_copy(update={"data": found.data.model_copy(update={"fold": None})}), chosen


@contextlib.contextmanager
def _told_how_to_go_on(folder: FoldsFolder) -> Iterator[None]:
    """Says how to go on after an interruption; removes the folder if its first run never began."""
    try:
        yield
    except (KcvError, KeyboardInterrupt) as error:
        if isinstance(error, KcvError) and not any(os.path.lexists(folder.run(n).path) for n in (0, 1)):
            folder.discard()
        else:
            _log.info("to go on with all folds: python -m kcv train --resume=%s", shlex.quote(str(folder.path)))
        raise


def _run(begin: _Begin, stop: StopRequest) -> dict[str, Any]:
    """Trains what is missing, measures, and returns the figures of all."""
    plan = begin.plan
    runs = []
    for number in range(1, plan.folds + 1):
        _log.info("fold       %d of %d", number, plan.folds)
        runs.append(_train(begin, number))
        stop.raise_if_requested()
    source = loading.source_of(begin.config.data)
    if source.fingerprint != plan.fingerprint:
        raise DataError(f"{source.name}: has changed since the folds began.")
    found = _predict(begin, source)
    found.write(begin.folder.path / FILE)
    figures = summarize(found.labels, found.probabilities, found.class_names, "out-of-fold")
    figures["accuracy_ci95"] = list(out_of_fold_interval(found.right, found.groups, plan.folds))
    figures["groups"] = len(np.unique(found.groups))
    figures["folds"] = [
        {"fold": number, "n": int((found.folds == number).sum()), "best_epoch": run.best_epoch,
         "accuracy": float(found.right[found.folds == number].mean())}
        for number, run in enumerate(runs, start=1)
    ]  # fmt: skip
    suspects = _label_errors(begin, source, found)
    figures["label_errors"] = {"suspects": len(suspects.rows), "estimated": suspects.estimated}
    low, high = figures["accuracy_ci95"]
    _log.info("accuracy   %.2f%% out of fold (%.2f%% to %.2f%%)", *(100 * x for x in (figures["accuracy"], low, high)))
    if plan.ensemble:
        _log.info("ensemble   of %d models", plan.folds)
        return {**figures, "final": {"file": ENSEMBLE, "metrics": _ensemble(begin, source)}}
    _log.info("final      a model of all folds")
    final = _train(begin, 0)
    return {**figures, "final": {"file": f"{FINAL}/{begin.model.name}", "metrics": final.metrics}}


def _ensemble(begin: _Begin, source: Source) -> dict[str, Any] | None:
    """Writes the ensemble; returns its metrics on the test split of the source, if there is one."""
    from kcv.exporting.ensemble import write_ensemble

    folder = begin.folder
    with device_scope("cpu"):
        models = [opening.load(folder.run(n).model, device="cpu") for n in range(1, begin.plan.folds + 1)]
        write_ensemble(models, folder.ensemble, _to_check(begin, source, models[0]))
    if "test" not in source.splits:
        return None
    images = _split(begin, source, 0, models[0])
    made = OnnxModel(folder.ensemble, device="cpu")
    starts = range(0, len(images), made.preferred_batch)
    scores = [
        made.predict_pixels(read_batch(images, np.arange(start, min(start + made.preferred_batch, len(images)))))
        for start in starts
    ]
    return summarize(images.labels, np.concatenate(scores), made.class_names, "test", threshold=made.threshold)


def _to_check(begin: _Begin, source: Source, model: LoadedModel) -> Samples:
    """Returns images to check the ensemble with: some of those that its first model did not train on."""
    images = _split(begin, source, 1, model)
    chosen = loading.evenly(len(images), MOST_CHECKED)
    return Samples(f"images of {source.name}", read_batch(images, chosen), images.labels[chosen])


def _split(begin: _Begin, source: Source, number: int, model: LoadedModel) -> Images:
    """Returns the images that a run holds out, as its model takes them."""
    data = config_of(begin.config, begin.folder, begin.fold(number)).data
    return loading.load_split(
        data.model_copy(update={"image_size": model.image_size, "resize": model.resize}),
        "test", source.class_names, source.fingerprint, changed=True,
    )  # fmt: skip


def _label_errors(begin: _Begin, source: Source, found: OutOfFold) -> SuspectedLabels:
    """Writes which labels are probably wrong."""
    suspects = suspected_labels(found.names, found.labels, found.probabilities, found.class_names)
    measured = f"out of fold, {begin.plan.folds} folds"
    write_label_errors(begin.folder.path, suspects, pool_of(source), data=source.name, measured=measured)
    return suspects


def _train(begin: _Begin, number: int) -> Run:
    """Trains one run, goes on with it, or reads it if it has ended."""
    config = config_of(begin.config, begin.folder, begin.fold(number))
    begun = begin.folder.is_begun(number)
    return train(config, resume=begin.folder.run(number).path if begun else None)


def _predict(begin: _Begin, source: Source) -> OutOfFold:
    """Classifies the images of each fold with the model that was trained without it."""
    pool = pool_of(source)
    division = _divide(begin.config, source, begin.fold(0))
    scores = np.empty((len(pool), len(source.class_names)))
    for number in range(1, begin.plan.folds + 1):
        run = begin.folder.run(number)
        model = opening.load(run.model, device=begin.config.device)
        logits = model.logits(_split(begin, source, number, model), workers=begin.config.data.workers)
        scores[division.assigned == number - 1] = model.calibration.probabilities(logits)
    return OutOfFold(pool.names, pool.labels, division.assigned + 1, division.groups, scores, source.class_names)
