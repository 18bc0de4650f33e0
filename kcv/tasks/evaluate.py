"""Measuring a model on a split: figures, tables and plots in a folder beside the model.

model -> (calibration, fitted again) -> logits of the split -> figures -> files, plots, a page
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from kcv.common.files import expand_user
from kcv.common.parameters import AtLeast, Between, Described, Device, PythonOnly, Split, checked
from kcv.common.progress import Progress
from kcv.errors import DataError, OutputError, UsageError
from kcv.inference.locating import is_downloaded, model_file, results_folder
from kcv.tasks import described_sources
from kcv.tasks.evaluate_exported import evaluate_exported, folder_of, is_exported
from kcv.tasks.report import write_page

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kcv.data.dataset import Images
    from kcv.distributed.group import Group
    from kcv.inference.keras_model import LoadedModel
    from kcv.inference.recalibration import Wanted

__all__ = ["Evaluation", "evaluate"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """How good a model is on one split.

    Attributes:
        metrics: as in `metrics.json`; see `kcv.metrics.summarize`, and with views `tta`; see `kcv.inference.tta_gain`.
        directory: the folder with the files.
        labels: int64 [n], positions in the model's class names.
        probabilities: float64 [n, classes].
        explanations: as from `kcv.saliency.trust`; None where they were not measured.
    """

    metrics: dict[str, Any]
    directory: Path
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    explanations: dict[str, Any] | None = None


@checked
def evaluate(
    model: str | Path | LoadedModel,
    data: Annotated[str, Described(described_sources)] | None = None,
    split: Split = "test",
    output_dir: str | Path | None = None,
    *,
    batch_size: Annotated[int, AtLeast(1)] | None = None,
    device: Device = "auto",
    calibrate: bool = False,
    abstain_precision: Annotated[float, Between(0.01, 1)] | None = None,
    coverage: Annotated[float, Between(0.01, 0.9999)] | None = None,
    tta: str | None = None,
    explain: bool = False,
    plots: bool = True,
    progress: Annotated[bool, PythonOnly()] = False,
) -> Evaluation:
    """Measure a model on a split: accuracy with its interval, per class, with plots.

    Figures of the test split of the training data equal those that training wrote, to the last digit, on the
    same machine. Under torchrun all processes call it, share the images, and return the same; the first one writes.

    Args:
        model: a model file (model.keras), or the run folder that holds it. Also a model in MLflow:
            models:/NAME/VERSION, models:/NAME@ALIAS or runs:/RUN_ID/PATH; or in the Hugging Face Hub:
            hf://OWNER/NAME[@COMMIT]. From Python also a loaded model. An exported file (model.onnx, model.xml) is
            measured on data that are named.
        data: source of the images; default: what the model was trained on. Classes are matched by
            name. If you began the run on this machine, the data may have changed since, with a warning; otherwise they
            must be named.
        split: the split to measure. Splits that training made are made again.
        output_dir: folder for metrics and plots; default: evaluation/ beside the model, or for one in MLflow or the Hub
            in NAME-VERSION/. That is for the test split of the training data; `evaluation-<split>` or
            `evaluation-<data>-<split>` for others, and `-tta-<tta>` more with views, so that none overwrites another.
        batch_size: images per batch; default: chosen by their size.
        device: where to compute. A loaded model stays where it is.
        calibrate: fit the temperature to the validation split first, and write it into the model file. With
            `abstain_precision` also the threshold, with `coverage` also the sets; of the two, what is not named is
            fitted again as the file has it, unless neither is: then both are removed.
        abstain_precision: target precision (implies --calibrate); predictions below the confidence that reaches it on
            validation are reported as unsure.
        coverage: predict sets that hold the right class in this fraction of images, such as 0.95 (implies --calibrate).
        tta: test-time augmentation, the mean over views of each image: flip, five_crop, or a number of them up to 64.
            Its calibration is fitted on validation, and with `calibrate` kept in the file beside the plain one. The
            figures say what it brings and costs.
        explain: also measure how far the model's heat maps can be trusted (seconds to minutes).
        plots: draw plots; --plots=false: figures and tables only.
        progress: show a progress bar on a terminal.

    Returns:
        The figures, and the folder with the files, see `kcv.reporting.evaluation_files`.

    Raises:
        ArtifactError: the model cannot be opened or run.
        DataError: the data cannot be read, lacks the split, or has classes that the model does not know; or no
            threshold gives the wanted precision, or the validation images are too few for the wanted coverage.
        UsageError: there is no such `tta`.
        OutputError: the folder cannot be written to, or is a link beside the model.

    Example:
        $ kcv evaluate runs/mine/model.keras
        $ kcv evaluate runs/mine/model.keras --data=path/to/other/images
        $ kcv evaluate runs/mine --tta=flip
        >>> kcv.evaluate("runs/mine", split="val").metrics["accuracy"]
    """
    from kcv import artifact, metrics
    from kcv.distributed.connecting import connect
    from kcv.inference import opening, splits
    from kcv.inference.keras_model import LoadedModel
    from kcv.inference.recalibration import recalibrate
    from kcv.inference.tta import Tta
    from kcv.inference.tta_gain import gain, timed

    calibrate = calibrate or abstain_precision is not None or coverage is not None
    augmentation = Tta.parse(tta) if tta is not None else None
    if isinstance(model, str | Path) and is_exported(model):
        asked = {"calibrate": calibrate, "tta": tta is not None, "explain": explain}
        return evaluate_exported(model_file(model), data, split, output_dir, asked, batch_size, device, plots, progress)
    with connect() as group:
        with group.local_main_process_first():
            plain = model if isinstance(model, LoadedModel) else opening.load(model_file(model), device=device)
            directory = expand_user(output_dir) if output_dir is not None else _directory(plain.path, data, split, tta)
        # Of its calibration, what the file lacks is fitted below, so there is nothing to warn of.
        loaded = plain if augmentation is None else replace(plain, tta=augmentation)
        own = data if splits.is_own_data(loaded, data) else None
        if calibrate:
            if is_downloaded(loaded.path):
                raise UsageError(
                    "evaluate: --calibrate changes a model file, and those in MLflow and the Hub stay as they are."
                )
            wanted = _wanted(loaded, abstain_precision, coverage)
            loaded = recalibrate(loaded, wanted, own, batch_size=batch_size, group=group)
        elif augmentation is not None:
            loaded = _calibrated(loaded, own, batch_size, group)
        with group.local_main_process_first():
            images = splits.load_split(loaded, split, data, tell=data is not None, warn=not calibrate)

        def logits_of(model: LoadedModel) -> NDArray[np.float32]:
            with Progress(len(images) // group.world_size if progress else None, f"evaluate {split}") as bar:
                advance = bar.advance if progress else None
                return model.logits(images, batch_size=batch_size, advance=advance, group=group)

        logits, speed = timed(loaded, logits_of)
        gained = None
        if augmentation is not None:
            without, plain_speed = timed(replace(plain, tta=None), logits_of)
            gained = gain(loaded, images.labels, (logits, without), (speed, plain_speed))
        first = group.is_main_process
    probabilities = loaded.calibration.probabilities(logits)
    figures = metrics.summarize(
        images.labels, probabilities, loaded.class_names, split, threshold=loaded.threshold, sets=loaded.sets
    )
    if gained is not None:
        figures["tta"] = gained
    evaluation = Evaluation(figures, directory, images.labels, probabilities)
    if not first:
        return evaluation
    if calibrate and split == "test" and data is None and augmentation is None:
        # What the file says of itself was measured with the probabilities of before.
        artifact.describe_again(loaded.path, loaded.info.model_copy(update={"metrics": figures}))
    return _written(loaded, evaluation, images, plots, explain, progress)


def _written(
    model: LoadedModel, evaluation: Evaluation, images: Images, plots: bool, explain: bool, progress: bool
) -> Evaluation:
    """Writes the files and the page of an evaluation, and returns it, with how far to trust heat maps if asked for."""
    from kcv.reporting.evaluation_files import write_files

    directory, file = evaluation.directory, model.path
    write_files(
        directory, evaluation.metrics, model.keras_model, images, evaluation.probabilities, file.parent,
        file=file, draw=plots,
    )  # fmt: skip
    if explain:
        from kcv.saliency.trust import measure_explanations

        trust = measure_explanations(model.keras_model, images, directory, file, progress=progress)
        evaluation = replace(evaluation, explanations=trust)
    write_page(file, directory)
    return evaluation


def _wanted(model: LoadedModel, abstain_precision: float | None, coverage: float | None) -> Wanted:
    """Returns what to fit: where one is named, the other stays what the file has.

    With test-time augmentation, what is not named is what the plain calibration is for.
    """
    from kcv.inference.recalibration import Wanted

    known = Wanted.of(model.info.calibration or model.calibration)
    if abstain_precision is None and coverage is None and model.tta is None:
        return Wanted()
    return Wanted(abstain_precision or known.precision, coverage or known.coverage)


def _calibrated(model: LoadedModel, source: str | None, batch_size: int | None, group: Group) -> LoadedModel:
    """Returns a model with a calibration for its test-time augmentation: that of its file, or one fitted now."""
    from kcv.inference.classifier import warn_of_plain_calibration
    from kcv.inference.recalibration import calibrated

    assert model.tta is not None
    if model.tta.name in model.info.tta.root:
        return model
    try:
        return calibrated(model, _wanted(model, None, None), source, batch_size=batch_size, group=group)
    except DataError as error:
        _log.warning("%s", error)
        warn_of_plain_calibration(model.path, model.tta)
        return model


def _directory(model: Path, source: str | None, split: str, tta: str | None) -> Path:
    """Returns a folder beside the model; a link there would lead out of the run, perhaps of somebody else's."""
    from kcv.common.untrusted import inside

    own = "evaluation" if split == "test" else f"evaluation-{split}"
    name = own if source is None else folder_of(source, split)
    name += f"-tta-{tta}" if tta is not None else ""
    return inside(results_folder(model), name, error=OutputError)
