"""Measuring a model on a split: figures, tables and plots in a folder beside the model.

model -> (calibration, fitted again) -> logits of the split -> figures -> files, plots, a page
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from kcv.common.files import expand_user
from kcv.common.parameters import AtLeast, Between, Described, Device, PythonOnly, Split, checked
from kcv.common.progress import Progress
from kcv.common.redaction import data_without_credentials
from kcv.common.text import cut_to_bytes
from kcv.errors import OutputError, UsageError
from kcv.inference.locating import is_downloaded, model_file, results_folder
from kcv.tasks import described_sources
from kcv.tasks.report import write_page

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kcv.inference.keras_model import LoadedModel

__all__ = ["Evaluation", "evaluate"]

_LONGEST_NAME = 100  # bytes of the data's name in that of the folder for its figures


@dataclass(frozen=True)
class Evaluation:
    """How good a model is on one split.

    Attributes:
        metrics: as in `metrics.json`; see `kcv.metrics.summarize`.
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
    explain: bool = False,
    plots: bool = True,
    progress: Annotated[bool, PythonOnly()] = False,
) -> Evaluation:
    """Measure a model on a split: accuracy with its interval, per class, with plots.

    Figures of the test split of the training data equal those that training wrote, to the last digit, on the
    same machine. Under torchrun all processes call it, share the images, and return the same; the first one writes.

    Args:
        model: a model file (model.keras), or the run folder that holds it. Also a model in MLflow:
            models:/NAME/VERSION, models:/NAME@ALIAS or runs:/RUN_ID/PATH. From Python also a loaded model.
        data: source of the images; default: what the model was trained on. Classes are matched by
            name. If you began the run on this machine, the data may have changed since, with a warning; otherwise they
            must be named.
        split: the split to measure. Splits that training made are made again.
        output_dir: folder for metrics and plots; default: evaluation/ beside the model, or for a model in MLflow in
            NAME-VERSION/. That is for the test split of the training data; `evaluation-<split>` or
            `evaluation-<data>-<split>` for others, so that none overwrites another.
        batch_size: images per batch; default: chosen by their size.
        device: where to compute. A loaded model stays where it is.
        calibrate: fit the temperature to the validation split first, and write it into the model file. With
            `abstain_precision` also the threshold.
        abstain_precision: target precision (implies --calibrate); predictions below the confidence that reaches it on
            validation are reported as unsure.
        explain: also measure how far the model's heat maps can be trusted (seconds to minutes).
        plots: draw plots; --plots=false: figures and tables only.
        progress: show a progress bar on a terminal.

    Returns:
        The figures, and the folder with the files, see `kcv.reporting.evaluation_files`.

    Raises:
        ArtifactError: the model cannot be opened or run.
        DataError: the data cannot be read, lacks the split, or has classes that the model does not know; or no
            threshold gives the wanted precision.
        OutputError: the folder cannot be written to, or is a link beside the model.

    Example:
        $ kcv evaluate runs/mine/model.keras
        $ kcv evaluate runs/mine/model.keras --data=path/to/other/images
        >>> kcv.evaluate("runs/mine", split="val").metrics["accuracy"]
    """
    from kcv import artifact, metrics
    from kcv.distributed.connecting import connect
    from kcv.inference import opening, splits
    from kcv.inference.keras_model import LoadedModel
    from kcv.inference.recalibration import recalibrate
    from kcv.reporting.evaluation_files import write_files

    calibrate = calibrate or abstain_precision is not None
    with connect() as group:
        with group.local_main_process_first():
            loaded = model if isinstance(model, LoadedModel) else opening.load(model_file(model), device=device)
            directory = expand_user(output_dir) if output_dir is not None else _directory(loaded.path, data, split)
        if calibrate:
            if is_downloaded(loaded.path):
                raise UsageError("evaluate: --calibrate changes a model file, and those in MLflow stay as they are.")
            own = data if splits.is_own_data(loaded, data) else None
            loaded = recalibrate(loaded, abstain_precision, own, batch_size=batch_size, group=group)
        with group.local_main_process_first():
            images = splits.load_split(loaded, split, data, tell=data is not None, warn=not calibrate)
        with Progress(len(images) // group.world_size if progress else None, f"evaluate {split}") as bar:
            logits = loaded.logits(
                images, batch_size=batch_size, advance=bar.advance if progress else None, group=group
            )
        first = group.is_main_process
    probabilities = loaded.calibration.probabilities(logits)
    figures = metrics.summarize(images.labels, probabilities, loaded.class_names, split, threshold=loaded.threshold)
    evaluation = Evaluation(figures, directory, images.labels, probabilities)
    if not first:
        return evaluation
    if calibrate and split == "test" and data is None:
        # What the file says of itself was measured with the probabilities of before.
        artifact.describe_again(loaded.path, loaded.info.model_copy(update={"metrics": figures}))
    run, file = loaded.path.parent, loaded.path
    write_files(directory, figures, loaded.keras_model, images, probabilities, run, file=file, draw=plots)
    if explain:
        from kcv.saliency.trust import measure_explanations

        trust = measure_explanations(loaded.keras_model, images, directory, file, progress=progress)
        evaluation = replace(evaluation, explanations=trust)
    write_page(loaded.path, directory)
    return evaluation


def _directory(model: Path, source: str | None, split: str) -> Path:
    """Returns a folder beside the model; a link there would lead out of the run, perhaps of somebody else's."""
    from kcv.common.untrusted import inside

    if source is None:
        name = "evaluation" if split == "test" else f"evaluation-{split}"
    else:
        of = re.sub(r"[^\w.-]+", "-", Path(data_without_credentials(source)).name).strip("-.")
        name = f"evaluation-{cut_to_bytes(of, _LONGEST_NAME) or 'data'}-{split}"
    return inside(results_folder(model), name, error=OutputError)
