"""From a model file to an ONNX file that runs anywhere, checked before it is there.

model.keras -> float32 graph -> parity gate -> (int8 -> is it worth it?) -> model.onnx
"""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kcv import __version__
from kcv.common.files import atomic, expanded
from kcv.errors import UsageError
from kcv.exporting import samples as sampling
from kcv.exporting.graph import DEFAULT_OPSET, OPSETS, write_graph
from kcv.exporting.parity import Parity, compare
from kcv.exporting.quantization import Trade, quantize, weigh
from kcv.inference import opening
from kcv.inference.keras_model import LoadedModel
from kcv.inference.onnx_model import OnnxInfo, OnnxModel
from kcv.inference.outputs import model_device

__all__ = ["OPSETS", "PRECISIONS", "Export", "Parity", "Trade", "export"]

PRECISIONS = ("float32", "int8")


@dataclass(frozen=True)
class Export:
    """An exported file and why it may ship.

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
    trade: Trade | None
    refusal: str | None
    bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Returns all of it as plain values."""
        return {**dataclasses.asdict(self), "path": str(self.path)}


def export(
    model: str | Path | LoadedModel,
    output: str | Path | None = None,
    *,
    precision: str = "float32",
    opset: int = DEFAULT_OPSET,
    samples: str | None = None,
    force: bool = False,
) -> Export:
    """Exports a model to ONNX: `image` uint8 [batch, size, size, 3] to `logits` and `probabilities`.

    Normalisation and softmax are in the graph; class names, image size and origin are in its metadata. The file
    appears only if it says what the Keras model says on real images.

    Args:
        model: a model file, or a loaded model.
        output: the file; by default beside the model, with its name: `model.onnx`.
        precision: `float32`, or `int8`, which is kept only if it is faster on this machine and loses at most half a
            point of accuracy; otherwise the float32 file stays.
        opset: of ONNX's operators, one of `OPSETS`.
        samples: images to check with: a source as `--data` takes it, a folder of images or an image; by default
            the validation split of the training data.
        force: keep int8 whatever it gains and costs.

    Raises:
        UsageError: an argument is not allowed.
        ArtifactError: the model cannot be opened.
        DataError: the images to check with cannot be read.
        ExportError: the model has no form in ONNX.
        ParityError: the file does not say what the model says; none is left.
        OutputError: the place cannot be written to.
    """
    from kcv.native.device import device_scope

    _check(precision, opset)
    loaded = model if isinstance(model, LoadedModel) else opening.load(model, device="cpu")
    if model_device(loaded.keras_model).type != "cpu":
        loaded = opening.load(loaded.path, device="cpu")
    target = expanded(output) if output is not None else loaded.path.with_suffix(".onnx")
    if target.suffix.lower() != ".onnx":
        raise UsageError(f"--output: received {str(target)!r}, allowed: a name that ends in .onnx.")
    with device_scope("cpu"):  # Keras would put images on a GPU where there is one
        return _export(loaded, target, precision, opset, samples, force)


def _export(loaded: LoadedModel, target: Path, precision: str, opset: int, samples: str | None, force: bool) -> Export:
    from kcv.native.precision import in_float32

    checked = sampling.to_check(loaded, samples)
    calibrating = None
    if precision == "int8":
        calibrating, checked = sampling.to_calibrate(loaded, samples, checked)
    loaded.predict(checked.pixels[:1])  # a model that cannot be run, or gives no finite numbers, is told as that
    exact = in_float32(loaded.keras_model)
    with atomic(target) as final, tempfile.TemporaryDirectory() as folder:
        float32 = Path(folder) / "float32.onnx"
        write_graph(exact, _info(loaded, "float32"), float32, opset=opset)
        parity = compare(exact, OnnxModel(float32, device="cpu"), checked, loaded.calibration)
        parity.check()
        kept, trade = float32, None
        if calibrating is not None:
            int8 = Path(folder) / "int8.onnx"
            quantize(float32, int8, _info(loaded, "int8"), calibrating.pixels)
            trade = weigh(float32, int8, checked)
            if force or trade.refusal is None:
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
        refusal=trade.refusal if trade is not None and kept_precision == "float32" else None,
        bytes=target.stat().st_size,
    )


def _check(precision: str, opset: int) -> None:
    if precision not in PRECISIONS:
        raise UsageError(f"--precision: received {precision!r}, allowed: {', '.join(PRECISIONS)}.")
    if opset not in OPSETS:
        raise UsageError(f"--opset: received {opset}, allowed: {', '.join(map(str, OPSETS))}.")


def _info(loaded: LoadedModel, precision: str) -> OnnxInfo:
    info = loaded.info
    return OnnxInfo(
        class_names=info.class_names,
        image_size=info.image_size,
        resize=info.resize,
        precision=precision,
        model_name=info.model_name,
        data_name=info.data_name,
        data_fingerprint=info.data_fingerprint,
        kcv_version=__version__,
        temperature=loaded.calibration.temperature,
        threshold=loaded.threshold,
    )
