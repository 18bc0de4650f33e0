"""Exporting a model file to one that runs without Keras, checked before it appears.

model.keras -> float32 graph -> parity check -> (int8 -> is it faster and as accurate?) -> model.onnx, model.xml ...
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from kcv import __version__
from kcv.common.files import atomic, expand_user, temporary_folder
from kcv.common.parameters import OneOf, checked
from kcv.errors import UsageError
from kcv.exporting import formats
from kcv.inference.locating import model_file, results_folder

if TYPE_CHECKING:
    import keras
    import numpy as np
    from numpy.typing import NDArray

    from kcv.exporting.formats import Format
    from kcv.exporting.graph import FindSource
    from kcv.exporting.parity import Exported, Parity
    from kcv.exporting.quantization import Int8Tradeoff
    from kcv.exporting.samples import Samples
    from kcv.inference.exported import ExportedInfo
    from kcv.inference.keras_model import LoadedModel
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
        opset: of ONNX's operators, where the file is made of them.
        samples: what it was checked with.
        parity: how the float32 file compares with the Keras model.
        trade: how int8 compares with float32; None where it was not asked for.
        refusal: why int8 was asked for and is not in the file; None where it is, or was not asked for.
        bytes: size of the file, with those that belong to it.
        to: the format of the file.
        beside: the other files that belong to it.
    """

    path: Path
    precision: str
    opset: int
    samples: str
    parity: Parity
    trade: Int8Tradeoff | None
    refusal: str | None
    bytes: int
    to: str = formats.DEFAULT
    beside: tuple[Path, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Returns all of it as plain values."""
        return {**dataclasses.asdict(self), "path": str(self.path), "beside": [str(path) for path in self.beside]}


@checked
def export(
    model: str | Path | LoadedModel,
    output: str | Path | None = None,
    *,
    precision: ExportPrecision = "float32",
    opset: Opset = formats.DEFAULT_OPSET,
    samples: str | None = None,
    force: bool = False,
    heatmaps: bool = False,
    tta: Literal["flip"] | None = None,
    to: Annotated[str, OneOf(formats.names)] = formats.DEFAULT,
) -> Export:
    """Export a model to an ONNX file or another format, checked against it on real images.

    The graph takes `image` uint8 [batch, size, size, 3] and gives `logits` and `probabilities`: normalisation and
    softmax are in it, class names, image size and origin in its metadata. The file appears only if it says what the
    Keras model says on real images.

    Args:
        model: a model file (model.keras), or the run folder that holds it. Also a model in MLflow:
            models:/NAME/VERSION, models:/NAME@ALIAS or runs:/RUN_ID/PATH; or in the Hugging Face Hub:
            hf://OWNER/NAME[@COMMIT]. From Python also a loaded model.
        output: the file; default: model.onnx (or of another suffix, by the format) beside the model, or for one in
            MLflow or the Hub in NAME-VERSION/.
        precision: precision of weights and computation; int8 is kept only if it is faster on this machine and loses at
            most half a point of accuracy. Otherwise the float32 file stays.
        opset: version of ONNX's operators.
        samples: images to check with; default: the validation split of the training data. A source as `--data` takes
            it, a folder of images or an image.
        force: keep int8 even if it is slower or less accurate.
        heatmaps: add what `explain` and `serve` draw Grad-CAM heat maps from, without torch.
        tta: average each image and its mirror image in the graph, calibrated for that; it computes twice as much.
        to: format of the file: onnx, openvino (model.xml and model.bin), torch (model.pt2, for torch.export.load)
            and others. Also typed as `--format=openvino`.

    Raises:
        UsageError: an argument is not allowed, or a format needs a package that is not installed.
        ArtifactError: the model cannot be opened.
        DataError: the images to check with cannot be read.
        ExportError: the model has no form in the format.
        ParityError: the file does not say what the model says; none is left.
        OutputError: the place cannot be written to.

    Example:
        $ kcv export runs/mine
        $ kcv export runs/mine --heatmaps
        $ kcv export runs/mine --precision=int8 --output=mine.onnx
        $ kcv export runs/mine --to=openvino
        >>> kcv.export("runs/mine").parity.max_difference
    """
    from kcv.inference import opening
    from kcv.inference.outputs import model_device
    from kcv.inference.tta import Tta
    from kcv.native.device import device_scope

    kind = formats.find(to)
    asked = {"precision": precision != "float32", "opset": opset != formats.DEFAULT_OPSET, "heatmaps": heatmaps}
    _require_options(kind, asked)
    kind.require()
    loaded = opening.load(model_file(model), device="cpu") if isinstance(model, str | Path) else model
    if tta is not None:
        if heatmaps:
            raise UsageError("--heatmaps: allowed without --tta only; a heat map is of one view.")
        loaded = _augmented(loaded, Tta(tta))
    if model_device(loaded.keras_model).type != "cpu":
        loaded = dataclasses.replace(loaded, keras_model=opening.load(loaded.path, device="cpu").keras_model)
    target = expand_user(output) if output is not None else _beside(loaded.path, kind.suffix)
    if target.suffix.lower() != kind.suffix:
        raise UsageError(f"--output: received {str(target)!r}, allowed: a name that ends in {kind.suffix}.")
    with device_scope("cpu"):  # Keras would put images on a GPU where there is one
        info = _info(loaded, from_file=loaded.keras_model is not getattr(model, "keras_model", None))
        checked = _images(loaded, samples, precision)
        loaded.predict(checked.images.pixels[:1])  # a model that cannot be run, or gives no finite numbers, says so
        return _export(loaded, kind, target, info, opset, checked, force, heatmaps)


def _require_options(kind: Format, asked: dict[str, bool]) -> None:
    for option, wanted in asked.items():
        if wanted and option not in kind.options:
            able = [name for name in formats.names() if option in formats.find(name).options]
            raise UsageError(f"--{option}: allowed with --to={' and '.join(able)} only, not with {kind.name}.")


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


def _beside(model: Path, suffix: str) -> Path:
    return results_folder(model) / model.with_suffix(suffix).name


@dataclass(frozen=True)
class _Images:
    """Images to check a file with, and those to calibrate int8 on; None for float32."""

    images: Samples
    calibrating: Samples | None


def _images(loaded: LoadedModel, samples: str | None, precision: str) -> _Images:
    from kcv.exporting import samples as sampling

    images = sampling.to_check(loaded, samples)
    if precision != "int8":
        return _Images(images, None)
    calibrating, images = sampling.to_calibrate(loaded, samples, images)
    return _Images(images, calibrating)


def _export(
    loaded: LoadedModel,
    kind: Format,
    target: Path,
    info: ExportedInfo,
    opset: int,
    checked: _Images,
    force: bool,
    heatmaps: bool,
) -> Export:
    from kcv.exporting.parity import compare
    from kcv.native.precision import in_float32

    exact, images = in_float32(loaded.keras_model), checked.images
    with atomic(target) as final:
        with temporary_folder() as folder:
            float32 = folder / f"float32{kind.suffix}"
            source = formats.Source(exact, info, opset, _heatmap_finder(exact) if heatmaps else None)
            more = kind.write(source, float32)
            made = kind.open(float32)
            views = loaded.tta.views(info.image_size) if loaded.tta is not None else ()
            parity = compare(exact, made, images, loaded.calibration, views)
            parity.check()
            if heatmaps:
                _check_heatmaps(exact, made, images.pixels[:_MOST_MAPS])
            kept, trade = float32, None
            if checked.calibrating is not None:
                kept, trade = _quantized(float32, info, checked.calibrating, images, force)
            for suffix in more:  # first, because a reader begins with the file itself
                with atomic(target.with_suffix(suffix)) as part:
                    part.write_bytes(float32.with_suffix(suffix).read_bytes())
            content = kept.read_bytes()
        final.write_bytes(content)
    beside = tuple(target.with_suffix(suffix) for suffix in more)
    kept_precision = kept.stem
    return Export(
        path=target,
        precision=kept_precision,
        opset=opset,
        samples=f"{len(images.pixels):,} {images.name}",
        parity=parity,
        trade=trade,
        refusal=trade.rejection_reason if trade is not None and kept_precision == "float32" else None,
        bytes=sum(path.stat().st_size for path in (target, *beside)),
        to=kind.name,
        beside=beside,
    )


def _quantized(
    float32: Path, info: ExportedInfo, calibrating: Samples, images: Samples, force: bool
) -> tuple[Path, Int8Tradeoff]:
    """Returns the file to keep, the int8 one if it pays, and the comparison of both."""
    from kcv.exporting.quantization import compare_int8, quantize

    int8 = float32.with_stem("int8")
    quantize(float32, int8, dataclasses.replace(info, precision="int8"), calibrating.pixels)
    trade = compare_int8(float32, int8, images)
    return (int8 if force or trade.rejection_reason is None else float32), trade


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


def _check_heatmaps(model: keras.Model, made: Exported, pixels: NDArray[np.uint8]) -> None:
    """Compares the heat maps of a file with Grad-CAM's.

    Raises:
        ParityError: they differ: between the last feature map and the logits there is more than pooling and one dense
            layer.
    """
    import numpy as np

    from kcv.errors import ParityError
    from kcv.inference.onnx_model import OnnxModel
    from kcv.saliency.explainer import Explainer

    assert isinstance(made, OnnxModel)  # no other format has the option

    explained = Explainer(model).explain(pixels)
    wanted, classes = explained.maps["gradcam"].cpu().numpy(), explained.classes.tolist()
    found = np.concatenate([made.explain(pixels[n : n + 1], at).maps for n, at in enumerate(classes)])
    difference = float(np.abs(found - wanted).max())
    if not difference <= _MAP_TOLERANCE:  # NaN fails as well
        raise ParityError(
            f"heat maps differ by up to {difference:.2g} from those of kcv explain, allowed {_MAP_TOLERANCE:g}; "
            "export without --heatmaps"
        )


def _info(loaded: LoadedModel, *, from_file: bool) -> ExportedInfo:
    """Returns the description of a float32 file.

    Args:
        loaded: the model.
        from_file: whether its weights are those of its file; a model that was handed over may have others by now.
    """
    from kcv import artifact
    from kcv.inference.exported import ExportedInfo
    from kcv.inference.reference import Reference
    from kcv.metrics.temperature import TtaCalibrations

    info = loaded.info
    return ExportedInfo(
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
        mirrored=info.mirrored,
    )
