"""Several models as one ONNX file, whose probabilities are the mean of theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from kcv import __version__
from kcv.common.files import atomic, temporary_folder
from kcv.errors import ExportError
from kcv.exporting import graph
from kcv.exporting.parity import Parity, compare, layer_by_layer, native_logits
from kcv.inference.onnx_model import INPUT, LOGITS, PROBABILITIES, OnnxInfo, OnnxModel
from kcv.metrics.temperature import Calibration
from kcv.native.precision import in_float32

if TYPE_CHECKING:
    import keras

    from kcv.exporting.samples import Samples
    from kcv.inference.keras_model import LoadedModel

_LEAST: Final = 1e-37
"""The least probability whose logarithm is taken; below it, float32 loses digits and then everything."""


def write_ensemble(models: Sequence[LoadedModel], path: Path, samples: Samples) -> Parity:
    """Writes models as one file: `probabilities` is the mean of their calibrated ones, `logits` its logarithm.

    A prediction is unsure below the highest of their thresholds. The file appears only if it says what the models say.

    Args:
        models: on the CPU, of the same classes and image size.
        path: the file.
        samples: images to check it with.

    Raises:
        ExportError: a model has no form in ONNX, the models do not fit together, or all of them are larger than an
            ONNX file can be.
        ParityError: the file does not say what the models say; none is left.
        OutputError: the file cannot be written.
    """
    info = _info(models)
    exact = [in_float32(model.keras_model) for model in models]
    members = [_Member(one, model.calibration) for one, model in zip(exact, models, strict=True)]
    with atomic(path) as final:
        with temporary_folder() as folder:
            graphs = []
            for number, member in enumerate(members, start=1):
                part = folder / f"{number}.onnx"
                graph.write_graph(member.model, replace(info, temperature=member.calibration.temperature), part)
                graphs.append(_prefixed(onnx.load(part), f"model{number}/"))
            merged = _merged(graphs, info)
            graph.require_valid(merged, f"the ensemble of {len(models)} models")
            whole = folder / "whole.onnx"
            graph.save(merged, whole)
            parity = compare(_Together(members), OnnxModel(whole, device="cpu"), samples)
            parity.check()
            content = whole.read_bytes()
        final.write_bytes(content)
    return parity


def _info(models: Sequence[LoadedModel]) -> OnnxInfo:
    first = models[0].info
    if any(
        (m.class_names, m.image_size, m.resize) != (first.class_names, first.image_size, first.resize) for m in models
    ):
        raise ExportError("models of different classes or image sizes make no ensemble.")
    thresholds = [model.threshold for model in models if model.threshold is not None]
    return OnnxInfo(
        class_names=first.class_names,
        image_size=first.image_size,
        resize=first.resize,
        precision="float32",
        model_name=f"{first.model_name} x {len(models)}",
        data_name=first.data_name,
        data_fingerprint=first.data_fingerprint or "",
        kcv_version=__version__,
        threshold=max(thresholds) if thresholds else None,
    )


@dataclass(frozen=True)
class _Member:
    """A model in float32, and its calibration."""

    model: keras.Model
    calibration: Calibration


@dataclass(frozen=True)
class _Together:
    """What the file must say; see `kcv.exporting.parity.Reference`."""

    members: Sequence[_Member]

    def layer_by_layer(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._mean([layer_by_layer(member.model, batch) for member in self.members])

    def native(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._mean([native_logits(member.model, pixels) for member in self.members])

    def _mean(self, logits: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Returns the logarithm of the mean probabilities."""
        each = [member.calibration.probabilities(rows) for member, rows in zip(self.members, logits, strict=True)]
        found: NDArray[np.float32] = np.log(np.maximum(np.mean(each, axis=0), _LEAST)).astype(np.float32)
        return found


def _prefixed(model: onnx.ModelProto, prefix: str) -> onnx.ModelProto:
    """Renames everything in a graph but its input, so that it can stand beside others of its kind."""

    def renamed(name: str) -> str:
        return name if name in ("", INPUT) else prefix + name

    for node in model.graph.node:
        node.name = renamed(node.name)
        node.input[:] = [renamed(name) for name in node.input]
        node.output[:] = [renamed(name) for name in node.output]
    for value in (*model.graph.initializer, *model.graph.value_info, *model.graph.output):
        value.name = renamed(value.name)
    return model


def _merged(models: Sequence[onnx.ModelProto], info: OnnxInfo) -> onnx.ModelProto:
    """Returns one graph of several that take the same images."""
    merged = onnx.ModelProto()
    merged.CopyFrom(models[0])
    whole = merged.graph
    for model in models[1:]:
        whole.node.extend(model.graph.node)
        whole.initializer.extend(model.graph.initializer)
        whole.value_info.extend(model.graph.value_info)
    least = "mean/least"
    whole.initializer.append(helper.make_tensor(least, TensorProto.FLOAT, [], [_LEAST]))
    each = [f"model{number}/{PROBABILITIES}" for number in range(1, len(models) + 1)]
    whole.node.extend(
        [
            helper.make_node("Mean", each, [PROBABILITIES], "mean/Mean"),
            helper.make_node("Max", [PROBABILITIES, least], ["mean/at_least"], "mean/Max"),
            helper.make_node("Log", ["mean/at_least"], [LOGITS], "mean/Log"),
        ]
    )
    outputs = {value.name: value for value in whole.output}
    kept = [outputs[f"model1/{name}"] for name in (LOGITS, PROBABILITIES)]
    for value, name in zip(kept, (LOGITS, PROBABILITIES), strict=True):
        value.name = name
    del whole.output[:]
    whole.output.extend(kept)
    whole.name = info.model_name
    helper.set_model_props(merged, info.to_metadata())
    return merged
