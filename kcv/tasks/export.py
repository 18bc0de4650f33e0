"""Exporting a model file to an ONNX file that runs anywhere, checked before it appears.

model.keras -> float32 graph -> parity check -> (int8 -> is it faster and as accurate?) -> model.onnx
"""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from kcv import __version__
from kcv.common.files import atomic, expand_user
from kcv.common.parameters import checked
from kcv.errors import UsageError
from kcv.inference.locating import model_file, results_folder

if TYPE_CHECKING:
    import keras
    import numpy as np
    from numpy.typing import NDArray

    from kcv.exporting.graph import FindSource
    from kcv.exporting.parity import Parity
    from kcv.exporting.quantization import Int8Tradeoff
    from kcv.inference.keras_model import LoadedModel
    from kcv.inference.onnx_model import OnnxInfo, OnnxModel
    from kcv.inference.tta import Tta
    from kcv.native.program import Program

__all__ = ["Export", "export"]

_MAP_TOLERANCE = 1e-4
"""Largest allowed difference of a heat map (0-1) between the file and `kcv explain`."""
_MOST_MAPS = 64

ExportPrecision: TypeAlias = Literal["float32", "int8"]
Opset: TypeAlias = Literal[18, 19, 20, 21]


@dataclass(frozen=True)
class Export:
    """An exported file, and how it compares with the model.

    Attributes:
        path: of the file.
        precision: of the file: the one that was asked for, or `float32` where int8 was not worth it.
        opset: of ONNX's operators.
        samples: what it was checked with.
        parity: how the float32 file compares with the Keras model.
        trade: how int8 compares with float32; None where it was not asked for.
        refusal: why int8 was asked for and is not in the file; None where it is, or was not asked for.
        bytes: size of the file.
    """

    path: Path
    precision: str
    opset: int
    samples: str
    parity: Parity
    trade: Int8Tradeoff | None
    refusal: str | None
    bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Returns all of it as plain values."""
        return {**dataclasses.asdict(self), "path": str(self.path)}


@checked
def export(
    model: str | Path | LoadedModel,
    output: str | Path | None = None,
    *,
    precision: ExportPrecision = "float32",
    opset: Opset = 20,
    samples: str | None = None,
    force: bool = False,
    heatmaps: bool = False,
    tta: Literal["flip"] | None = None,
) -> Export:
    """Export a model to one ONNX file, checked against it on real images.

    The graph takes `image` uint8 [batch, size, size, 3] and gives `logits` and `probabilities`: normalisation and
    softmax are in it, class names, image size and origin in its metadata. The file appears only if it says what the
    Keras model says on real images.

    Args:
        model: a model file (model.keras), or the run folder that holds it. Also a model in MLflow:
            models:/NAME/VERSION, models:/NAME@ALIAS or runs:/RUN_ID/PATH. From Python also a loaded model.
        output: the file; default: model.onnx beside the model, or for a model in MLflow in NAME-VERSION/.
        precision: precision of weights and computation; int8 is kept only if it is faster on this machine and loses at
            most half a point of accuracy. Otherwise the float32 file stays.
        opset: version of ONNX's operators.
        samples: images to check with; default: the validation split of the training data. A source as `--data` takes
            it, a folder of images or an image.
        force: keep int8 even if it is slower or less accurate.
        heatmaps: add what `explain` and `serve` draw Grad-CAM heat maps from, without torch.
        tta: average each image and its mirror image in the graph, calibrated for that; it computes twice as much.

    Raises:
        UsageError: an argument is not allowed.
        ArtifactError: the model cannot be opened.
        DataError: the images to check with cannot be read.
        ExportError: the model has no form in ONNX.
        ParityError: the file does not say what the model says; none is left.
        OutputError: the place cannot be written to.

    Example:
        $ kcv export runs/mine
        $ kcv export runs/mine --heatmaps
        $ kcv export runs/mine --precision=int8 --output=mine.onnx
        >>> kcv.export("runs/mine").parity.max_difference
    """
    from kcv.inference import opening
    from kcv.inference.outputs import model_device
    from kcv.inference.tta import Tta
    from kcv.native.device import device_scope

    loaded = opening.load(model_file(model), device="cpu") if isinstance(model, str | Path) else model
    if tta is not None:
        if heatmaps:
            raise UsageError("--heatmaps: allowed without --tta only; a heat map is of one view.")
        loaded = _augmented(loaded, Tta(tta))
    if model_device(loaded.keras_model).type != "cpu":
        loaded = dataclasses.replace(loaded, keras_model=opening.load(loaded.path, device="cpu").keras_model)
    target = expand_user(output) if output is not None else _beside(loaded.path)
    if target.suffix.lower() != ".onnx":
        raise UsageError(f"--output: received {str(target)!r}, allowed: a name that ends in .onnx.")
    with device_scope("cpu"):  # Keras would put images on a GPU where there is one
        info = _info(loaded, from_file=loaded.keras_model is not getattr(model, "keras_model", None))
        return _export(loaded, target, info, precision, opset, samples, force, heatmaps)


def _augmented(model: LoadedModel, tta: Tta) -> LoadedModel:
    """Returns a model with test-time augmentation, calibrated for it on validation where its file is not.

    Raises:
        DataError: the validation split cannot be read.
    """
    from kcv.inference.recalibration import Wanted, calibrated

    augmented = dataclasses.replace(model, tta=tta)
    if tta.name in model.info.tta.root:
        return augmented
    return calibrated(augmented, Wanted.of(model.calibration))


def _beside(model: Path) -> Path:
    return results_folder(model) / model.with_suffix(".onnx").name


def _export(
    loaded: LoadedModel,
    target: Path,
    info: OnnxInfo,
    precision: str,
    opset: int,
    samples: str | None,
    force: bool,
    heatmaps: bool,
) -> Export:
    from kcv.exporting import samples as sampling
    from kcv.exporting.graph import write_graph
    from kcv.exporting.parity import compare
    from kcv.exporting.quantization import compare_int8, quantize
    from kcv.inference.onnx_model import OnnxModel
    from kcv.native.precision import in_float32

    checked = sampling.to_check(loaded, samples)
    calibrating = None
    if precision == "int8":
        calibrating, checked = sampling.to_calibrate(loaded, samples, checked)
    loaded.predict(checked.pixels[:1])  # a model that cannot be run, or gives no finite numbers, is told as that
    exact = in_float32(loaded.keras_model)
    with atomic(target) as final, tempfile.TemporaryDirectory() as folder:
        float32 = Path(folder) / "float32.onnx"
        write_graph(exact, info, float32, opset=opset, find_heatmaps=_heatmap_finder(exact) if heatmaps else None)
        made = OnnxModel(float32, device="cpu")
        views = loaded.tta.views(info.image_size) if loaded.tta is not None else ()
        parity = compare(exact, made, checked, loaded.calibration, views)
        parity.check()
        if heatmaps:
            _check_heatmaps(exact, made, checked.pixels[:_MOST_MAPS])
        kept, trade = float32, None
        if calibrating is not None:
            int8 = Path(folder) / "int8.onnx"
            quantize(float32, int8, dataclasses.replace(info, precision="int8"), calibrating.pixels)
            trade = compare_int8(float32, int8, checked)
            if force or trade.rejection_reason is None:
                kept = int8
        final.write_bytes(kept.read_bytes())
    kept_precision = kept.stem
    return Export(
        path=target,
        precision=kept_precision,
        opset=opset,
        samples=f"{len(checked.pixels):,} {checked.name}",
        parity=parity,
        trade=trade,
        refusal=trade.rejection_reason if trade is not None and kept_precision == "float32" else None,
        bytes=target.stat().st_size,
    )


def _heatmap_finder(model: keras.Model) -> FindSource:
    """Returns a function that finds what the heat maps of a model are computed from."""
    import torch
    from keras import layers

    from kcv.errors import ExportError
    from kcv.exporting.graph import HeatMapSource
    from kcv.saliency.layers import choose, feature_maps

    def find(program: Program) -> HeatMapSource:
        last = model.layers[-1]
        if not isinstance(last, layers.Dense):
            raise ExportError(f"--heatmaps: the last layer of {model.name} is no dense layer, which they need.")
        found = choose(feature_maps(program, torch.zeros(1, *model.input_shape[1:])))
        weights = last.kernel.value.detach().cpu().numpy()
        return HeatMapSource(found.after, found.place, found.channels, weights)

    return find


def _check_heatmaps(model: keras.Model, made: OnnxModel, pixels: NDArray[np.uint8]) -> None:
    """Compares the heat maps of a file with Grad-CAM's.

    Raises:
        ParityError: they differ: between the last feature map and the logits there is more than pooling and one dense
            layer.
    """
    import numpy as np

    from kcv.errors import ParityError
    from kcv.saliency.explainer import Explainer

    explained = Explainer(model).explain(pixels)
    wanted, classes = explained.maps["gradcam"].cpu().numpy(), explained.classes.tolist()
    found = np.concatenate([made.explain(pixels[n : n + 1], at).maps for n, at in enumerate(classes)])
    difference = float(np.abs(found - wanted).max())
    if not difference <= _MAP_TOLERANCE:  # NaN fails as well
        raise ParityError(
            f"heat maps differ by up to {difference:.2g} from those of kcv explain, allowed {_MAP_TOLERANCE:g}; "
            "export without --heatmaps"
        )


def _info(loaded: LoadedModel, *, from_file: bool) -> OnnxInfo:
    """Returns the description of a float32 file.

    Args:
        loaded: the model.
        from_file: whether its weights are those of its file; a model that was handed over may have others by now.
    """
    from kcv import artifact
    from kcv.inference.onnx_model import OnnxInfo
    from kcv.inference.reference import Reference
    from kcv.metrics.temperature import TtaCalibrations

    info = loaded.info
    return OnnxInfo(
        class_names=info.class_names,
        image_size=info.image_size,
        resize=info.resize,
        precision="float32",
        model_name=info.model_name,
        data_name=info.data_name,
        data_fingerprint=info.data_fingerprint,
        kcv_version=__version__,
        temperature=loaded.calibration.temperature,
        threshold=loaded.threshold,
        weights_sha256=artifact.weights_digest(loaded.path) if from_file else "",
        reference=Reference.from_metrics(info.metrics) if loaded.tta is None else None,  # measured without views
        sets=loaded.sets,
        tta=loaded.tta_name,
        tta_calibrations=info.tta if loaded.tta is None else TtaCalibrations({}),
    )
