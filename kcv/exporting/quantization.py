"""Static int8 quantisation of weights and activations, kept only if it is faster on this machine."""

from __future__ import annotations

import logging
import math
import statistics
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from kcv import __version__
from kcv.common.files import temporary_folder
from kcv.common.timing import PAUSE, interleave
from kcv.exporting.graph import require_valid, save
from kcv.exporting.parity import MOST_POINTS
from kcv.exporting.samples import Samples
from kcv.inference.onnx_model import INPUT, OnnxInfo, OnnxModel
from kcv.metrics import accuracy

QUANTIZED = ("Conv", "Gemm", "Add", "MaxPool", "AveragePool", "GlobalAveragePool", "Relu", "Clip")
"""The operators computed in 8 bits. The rest (input normalisation, GELU, SiLU, softmax) stays in float32."""

_FEWEST_PRODUCTS = 16
"""A dense convolution with fewer products per output is limited by memory, so int8 only adds conversions."""

_CALIBRATION_BATCH = 32
_BATCHES = (1, 32)
_LEAST_GAIN = 1.05
"""The least speed-up of int8 for it to be kept; less is noise."""
_TURNS = 15


@dataclass(frozen=True)
class Int8Tradeoff:
    """The gains and costs of int8 compared with float32, measured in alternation on this machine.

    Attributes:
        float32_accuracy: accuracy of the float32 file (0-1).
        int8_accuracy: accuracy of the int8 file (0-1).
        pictures: the number of images that both were measured on.
        gains: the speed-up of int8, by batch size.
        bytes: file sizes, by precision.
    """

    float32_accuracy: float
    int8_accuracy: float
    pictures: int
    gains: dict[int, float]
    bytes: dict[str, int]

    @property
    def rejection_reason(self) -> str | None:
        """The reason why int8 is not worth it; None if it is."""
        lost = 100 * (self.float32_accuracy - self.int8_accuracy)
        if not lost <= MOST_POINTS:
            return (
                f"accuracy falls by {lost:.2f} points, from {self.float32_accuracy:.2%} to {self.int8_accuracy:.2%} "
                f"(allowed {MOST_POINTS})"
            )
        slow = {size: gain for size, gain in self.gains.items() if gain < _LEAST_GAIN}
        if slow:
            told = ", ".join(f"{gain:.2f}x at batch {size}" for size, gain in slow.items())
            return f"it is not faster on this machine: {told}"
        return None


def quantize(source: Path, target: Path, info: OnnxInfo, pixels: NDArray[np.uint8]) -> None:
    """Writes the int8 version of an exported file: QDQ format, int8 weights per channel, uint8 activations.

    Args:
        source: the float32 file.
        target: the int8 file to write.
        info: the description that the file will contain.
        pixels: training images, uint8 [n, size, size, 3], to calibrate the ranges of the activations on.

    Raises:
        ExportError: what onnxruntime makes is not valid.
        OutputError: a file cannot be written.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # untyped
        def __init__(self) -> None:
            self._batches = iter(range(0, len(pixels), _CALIBRATION_BATCH))

        def get_next(self) -> dict[str, Any] | None:
            start = next(self._batches, None)
            return None if start is None else {INPUT: pixels[start : start + _CALIBRATION_BATCH]}

    with temporary_folder() as folder, _quietly():
        prepared = folder / "prepared.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(target),
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTIZED),
            nodes_to_exclude=_tiny(onnx.load(prepared).graph),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    graph = onnx.load(target)
    used = {node.domain for node in graph.graph.node}
    versions = [entry for entry in graph.opset_import if entry.domain in used]  # onnxruntime adds unused ones
    del graph.opset_import[:]
    graph.opset_import.extend(versions)
    graph.producer_name, graph.producer_version = "kcv", __version__
    onnx.helper.set_model_props(graph, info.to_metadata())
    require_valid(graph, info.model_name)
    save(graph, target)


def _tiny(graph: onnx.GraphProto) -> list[str]:
    """Returns the names of the convolutions that are too small to gain anything."""
    kernels = {value.name: tuple(value.dims) for value in graph.initializer}
    return [
        node.name
        for node in graph.node
        if node.op_type == "Conv"
        and math.prod(kernels[node.input[1]][1:]) < _FEWEST_PRODUCTS
        and all(attribute.i == 1 for attribute in node.attribute if attribute.name == "group")
    ]


def compare_int8(float32: Path, int8: Path, samples: Samples) -> Int8Tradeoff:
    """Measures accuracy and speed of both files on labelled images.

    Args:
        float32: the float32 file.
        int8: the int8 file made from it.
        samples: images with labels.
    """
    assert samples.labels is not None
    models = {path: OnnxModel(path, device="cpu") for path in (float32, int8)}
    right = {path: accuracy(samples.labels, model.logits(samples.pixels)) for path, model in models.items()}
    gains = {}
    for size in _BATCHES:
        batch = samples.pixels[np.arange(size) % len(samples.pixels)]
        seconds = interleave({path: partial(model.run, batch) for path, model in models.items()}, _TURNS, pause=PAUSE)
        gains[size] = statistics.median(seconds[float32]) / statistics.median(seconds[int8])
    return Int8Tradeoff(
        float32_accuracy=right[float32],
        int8_accuracy=right[int8],
        pictures=len(samples.labels),
        gains=gains,
        bytes={"float32": float32.stat().st_size, "int8": int8.stat().st_size},
    )


@contextmanager
def _quietly() -> Iterator[None]:
    """Stops onnxruntime's quantiser from logging hints through the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
