"""Explaining predictions: heat maps of where a model looks, drawn and as numbers (decision 008).

paths -> model -> heat maps, batch by batch -> three files and a row for each image -> a grid of the first
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from kcv.common.files import expand_user
from kcv.common.parameters import AtLeast, Device, checked
from kcv.errors import DataError, OutputError
from kcv.inference.locating import model_file, results_folder

if TYPE_CHECKING:
    from kcv.inference.keras_model import LoadedModel
    from kcv.inference.onnx_model import OnnxModel
    from kcv.saliency.explanation import Explaining

FOLDER = "explanations"


@checked
def explain(
    paths: str | Path | Iterable[str | Path],
    model: str | Path | LoadedModel | OnnxModel,
    *,
    method: Literal["gradcam", "gradcam++", "hirescam", "layercam"] = "gradcam",
    class_name: str | None = None,
    layer: str | None = None,
    output: str | Path | None = None,
    batch_size: Annotated[int, AtLeast(1)] | None = None,
    device: Device = "auto",
    recursive: bool = False,
) -> Iterator[dict[str, Any]]:
    """Explain predictions with Grad-CAM heat maps.

    Everything is checked, and the model is opened, when this is called; images are explained as the rows are taken. An
    image that cannot be read gives a row with its error.

    Args:
        paths: images, folders or quoted patterns ('photos/*.jpg').
        model: a model file (model.keras, or model.onnx exported with --heatmaps), or a run folder. Also a model in
            MLflow: models:/NAME/VERSION, models:/NAME@ALIAS or runs:/RUN_ID/PATH; or in the Hugging Face Hub:
            hf://OWNER/NAME[@COMMIT]. From Python also a loaded model. An ONNX file needs no torch, and has gradcam at
            the last layer.
        method: how activations and gradients become a map. See `kcv.saliency.methods`.
        class_name: the class to explain; default: each image's most probable one.
        layer: the layer to look at; default: the last one with height and width.
        output: folder for the files; default: explanations/ beside the model, or for one in MLflow or the Hub
            in NAME-VERSION/.
        batch_size: images per batch; default: chosen by their size.
        device: where to compute. A loaded model stays where it is.
        recursive: search folders recursively.

    Returns:
        Rows: `path`; `label` and `probability` (0-1) of the explained class; the files `overlay` (PNG), `side_by_side`
        (PNG) and `heatmap` (.npy: float32 [image_size, image_size] in 0-1); `warning` ("" where there is none: of a map
        that is flat); `error` ("" where fine; else all but `path` are None). After the last row the folder holds
        `grid.png` and `grid.svg` with the first 36 images, if there are two or more.

    Raises:
        DataError: a path does not exist or stands for no image.
        ArtifactError: the model cannot be opened or run.
        UsageError: there is no such method, class or layer; or the ONNX file has no heat maps.
        OutputError: the folder beside the model is a link, or a file cannot be written (while rows are taken).

    Example:
        $ kcv explain cat.jpg --model=runs/mine
        $ kcv explain cat.jpg --model=runs/mine/model.onnx
        $ kcv explain photos --model=runs/mine --method=gradcam++ --class_name=cat --output=why_cat
        >>> [row["overlay"] for row in kcv.explain("photos", "runs/mine", output="why")]
    """
    from kcv import images
    from kcv.common.download import is_url
    from kcv.common.untrusted import inside

    given = [paths] if isinstance(paths, str | Path) else list(paths)
    if urls := [path for path in given if is_url(path)]:
        raise DataError(f"{urls[0]}: explain reads no URLs; download the image first.")
    # All names at once: the images that are about to be written must not be found among them.
    files = list(images.find(given, recursive=recursive))
    if isinstance(model, str | Path):
        model = model_file(model)
    from kcv.reporting.heat_map_files import HeatMapFiles
    from kcv.saliency.classes import class_position

    loaded, explaining = _opened(model, method, layer, device)
    position = class_position(loaded, class_name)
    folder = (
        expand_user(output) if output is not None else inside(results_folder(loaded.path), FOLDER, error=OutputError)
    )
    return HeatMapFiles(loaded, explaining, position, folder).rows(files, batch_size or loaded.preferred_batch)


def _opened(
    model: Path | LoadedModel | OnnxModel, method: str, layer: str | None, device: str
) -> tuple[LoadedModel | OnnxModel, Explaining]:
    """Returns a model, opened, and what explains it. An ONNX file needs neither Keras nor torch."""
    from kcv.inference.classifier import is_onnx
    from kcv.inference.onnx_model import OnnxModel

    if isinstance(model, OnnxModel) or (isinstance(model, Path) and is_onnx(model)):
        from kcv.saliency.onnx_explaining import OnnxExplaining

        opened = OnnxModel(model, device=device) if isinstance(model, Path) else model
        return opened, OnnxExplaining(opened, method, layer)
    from kcv import artifact

    if isinstance(model, Path):
        artifact.read_info(model)  # says what is wrong with a file before anything heavy is imported
    from kcv.inference import opening
    from kcv.saliency.explainer import KerasExplaining, check_method

    check_method(method)
    loaded = opening.load(model, device=device) if isinstance(model, Path) else model
    return loaded, KerasExplaining(loaded, method, layer)
