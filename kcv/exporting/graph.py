"""Converts a Keras model through torch to an ONNX graph that maps images to logits and probabilities."""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import onnx
import torch
from google.protobuf.message import EncodeError
from numpy.typing import NDArray
from torch import Tensor, nn

from kcv import __version__
from kcv.errors import ExportError, OutputError, first_line
from kcv.exporting.formats import DEFAULT_OPSET
from kcv.exporting.simplify import simplify
from kcv.inference.onnx_model import CLASS_WEIGHTS, FEATURES, INPUT, LOGITS, PROBABILITIES, OnnxInfo
from kcv.inference.tta import Tta
from kcv.native.layers.lowered import Target, Unsupported
from kcv.native.lowering import lower

if TYPE_CHECKING:
    import keras

    from kcv.native.program import Program, Step

OPSETS = (18, 19, 20, 21)
"""From the lowest opset that torch writes to the highest that the oldest supported onnxruntime (1.20) reads."""
MOST_BYTES = 2**31 - 1
"""Of an ONNX file: protobuf, its format, counts bytes in 31 bits."""

_EXAMPLE_IMAGES = 2  # torch.export would treat a batch of one as a fixed size


@dataclass(frozen=True)
class HeatMapSource:
    """What heat maps are computed from: a feature map with nothing but pooling between it and one dense layer.

    Attributes:
        after: the number of steps of the program after which the feature map is there.
        place: the index of the program's value that holds it.
        channels: the axis of its channels there.
        weights: the kernel of the dense layer, float32 [channels, classes].
    """

    after: int
    place: int
    channels: int
    weights: NDArray[np.float32]


FindSource: TypeAlias = "Callable[[Program], HeatMapSource]"


def write_graph(
    model: keras.Model,
    info: OnnxInfo,
    path: Path,
    *,
    opset: int = DEFAULT_OPSET,
    find_heatmaps: FindSource | None = None,
) -> None:
    """Writes a model as an ONNX file after checking the graph with `onnx`, including types and shapes.

    Args:
        model: functional, in float32; maps RGB 0-255 [batch, size, size, 3] to logits. The memory layout of its
            kernels is changed.
        info: the description that the file will contain.
        path: the file to write.
        opset: the ONNX operator set; one of `OPSETS`.
        find_heatmaps: finds what heat maps are computed from, which become outputs of the graph; None for none.

    Raises:
        ExportError: a layer has no ONNX equivalent, or the model exceeds the size limit of an ONNX file.
        OutputError: the file cannot be written.
    """
    try:
        program = lower(model, Target(in_place=False, keeps_layers=True))
        source = find_heatmaps(program) if find_heatmaps is not None else None
        graph = _trace(_Deployed(program, info, source), info.image_size, opset)
        _describe(graph, info)
        simplify(graph)
        if source is not None:
            _add_weights(graph, source.weights)
    except Unsupported as error:
        raise ExportError(f"{model.name} cannot be exported: {error}") from error
    # The exporter raises different errors; all mean that it does not support some layer.
    except (torch.onnx.OnnxExporterError, RuntimeError, LookupError) as error:
        raise ExportError(f"{model.name} cannot be exported: {first_line(error)}") from error
    require_valid(graph, model.name)
    save(graph, path)


def require_valid(graph: onnx.ModelProto, name: str) -> None:
    """Checks a graph with `onnx`, including types and shapes.

    Args:
        graph: the graph.
        name: what it is made of, for messages.

    Raises:
        ExportError: it is not valid, or larger than an ONNX file can be.
    """
    try:
        size = graph.ByteSize()
    except (EncodeError, ValueError):  # protobuf counts the bytes by writing them, and does not write too many
        size = MOST_BYTES + 1
    if size > MOST_BYTES:
        raise ExportError(
            f"{name} cannot be exported: its graph has more than {MOST_BYTES:,} bytes, the most of an ONNX file."
        )
    try:
        onnx.checker.check_model(graph, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, RuntimeError) as error:
        raise ExportError(f"{name} cannot be exported: {first_line(error)}") from error


def module_of(model: keras.Model, info: OnnxInfo) -> nn.Module:
    """Returns a model as a torch module that maps images to logits and probabilities.

    Args:
        model: as for `write_graph`.
        info: the description: the temperature and the test-time augmentation are part of the module.

    Raises:
        ExportError: a layer cannot be exported.
    """
    try:
        return _Deployed(lower(model, Target(in_place=False, keeps_layers=True)), info, None).eval()
    except Unsupported as error:
        raise ExportError(f"{model.name} cannot be exported: {error}") from error


def exported_program(model: keras.Model, info: OnnxInfo) -> torch.export.ExportedProgram:
    """Returns a model as a program of torch.export, which maps images to logits and probabilities.

    Args:
        model: as for `write_graph`.
        info: as for `module_of`.

    Raises:
        ExportError: torch cannot trace the model.
    """
    image = torch.zeros((_EXAMPLE_IMAGES, info.image_size, info.image_size, 3), dtype=torch.uint8)
    network = module_of(model, info)
    try:
        with torch.no_grad(), quiet_exporter():
            program = torch.export.export(
                network, (image,), dynamic_shapes={INPUT: {0: torch.export.Dim("batch")}}, strict=False
            )
    except (RuntimeError, LookupError, torch._dynamo.exc.UserError) as error:
        raise ExportError(f"{model.name} cannot be exported: {first_line(error)}") from error
    for name, value in program.constants.items():  # the weights; of their own, where they are parts of a larger tensor
        if isinstance(value, Tensor):
            program.constants[name] = value.detach().clone()
    return program


def save(graph: onnx.ModelProto, path: Path) -> None:
    """Writes a graph to a file.

    Raises:
        ExportError: the graph exceeds the size limit of an ONNX file.
        OutputError: the file cannot be written.
    """
    try:
        onnx.save(graph, path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    except Exception as error:  # protobuf has its own errors, for example above 2 GB
        raise ExportError(f"the graph cannot be written: {first_line(error)}") from error


class _Layer(nn.Module):
    """One step of a program as a module, so that the exported nodes can be identified by its name."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self._step = step.run

    def forward(self, *tensors: Tensor) -> Any:
        return self._step(False, *tensors)


class _Deployed(nn.Module):
    """The program as one torch module, including test-time augmentation, temperature and softmax."""

    def __init__(self, program: Program, info: OnnxInfo, source: HeatMapSource | None) -> None:
        super().__init__()
        self.temperature = info.temperature
        self.views = Tta(info.tta).views(info.image_size) if info.tta is not None else None
        self.source = source
        self.layers = nn.ModuleDict()
        self._program = program.wrapped(self._register)

    def _register(self, step: Step) -> Any:
        name = re.sub(r"\W", "_", step.name)
        while name in self.layers:  # `layout` and `cast` occur more than once
            name += "_"
        layer = self.layers[name] = _Layer(step)
        return lambda training, *tensors: layer(*tensors)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        program, source = self._program, self.source
        if self.views is not None:  # all views are one batch, whose parts are averaged
            image = torch.cat([view(image) for view in self.views])
        values = program.start((image,))
        begin = source.after if source is not None else 0
        program.advance(values, 0, begin, training=False)
        features = () if source is None else (values[source.place].float().movedim(source.channels, 1),)
        program.advance(values, begin, len(program.steps), training=False)
        logits = program.results(values)
        if self.views is not None:
            logits = logits.reshape(len(self.views), -1, logits.shape[1]).mean(dim=0)
        return logits, torch.softmax(logits / self.temperature if self.temperature != 1 else logits, dim=1), *features


def _add_weights(graph: onnx.ModelProto, weights: NDArray[np.float32]) -> None:
    """Makes the kernel of the dense layer an output: in an int8 file the layer's own is not there in float32.

    Raises:
        ExportError: the layer does not take one number per channel of the feature map.
    """
    (features,) = (value for value in graph.graph.output if value.name == FEATURES)
    channels = features.type.tensor_type.shape.dim[1].dim_value
    if channels != len(weights):
        raise ExportError(
            f"--heatmaps: the dense layer takes {len(weights)} numbers for the {channels} channels of the last feature "
            "map; heat maps need nothing but pooling between them."
        )
    name = f"{CLASS_WEIGHTS}/kernel"
    graph.graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(weights), name))
    graph.graph.node.append(onnx.helper.make_node("Identity", [name], [CLASS_WEIGHTS], f"{CLASS_WEIGHTS}/Identity"))
    shape = list(weights.shape)
    graph.graph.output.append(onnx.helper.make_tensor_value_info(CLASS_WEIGHTS, onnx.TensorProto.FLOAT, shape))


def _trace(network: _Deployed, size: int, opset: int) -> onnx.ModelProto:
    image = torch.zeros((_EXAMPLE_IMAGES, size, size, 3), dtype=torch.uint8)
    with torch.no_grad(), quiet_exporter():
        exported = torch.onnx.export(
            network.eval(),
            (image,),
            input_names=[INPUT],
            output_names=[LOGITS, PROBABILITIES, *([] if network.source is None else [FEATURES])],
            dynamic_shapes={INPUT: {0: torch.export.Dim("batch")}},
            opset_version=opset,
            dynamo=True,
            verbose=False,
        )
    assert exported is not None  # it is None only if a path to write to is given
    proto: onnx.ModelProto = exported.model_proto
    return proto


def _describe(graph: onnx.ModelProto, info: OnnxInfo) -> None:
    """Names nodes and weights after their layers, removes the exporter's own metadata, and adds `info`."""
    weights = {tensor.name: tensor for tensor in graph.graph.initializer}
    renamed: dict[str, str] = {}
    taken: set[str] = set()
    for node in graph.graph.node:
        layer = _layer_of(node)
        node.name = _fresh(f"{layer or 'output'}/{node.op_type}", taken)
        for position, name in enumerate(node.input):
            if name in weights and name not in renamed and layer:
                renamed[name] = _fresh(f"{layer}/{_role(node.op_type, position)}", taken)
        del node.metadata_props[:]
        node.doc_string = ""
    for node in graph.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    for name, new in renamed.items():
        weights[name].name = new
    for value in graph.graph.value_info:
        value.name = renamed.get(value.name, value.name)
    for value in [*graph.graph.value_info, *graph.graph.input, *graph.graph.output]:
        del value.metadata_props[:]
    del graph.graph.metadata_props[:]
    del graph.metadata_props[:]
    graph.graph.name = info.model_name
    graph.producer_name, graph.producer_version = "kcv", __version__
    onnx.helper.set_model_props(graph, info.to_metadata())


def _layer_of(node: onnx.NodeProto) -> str:
    """Returns the layer that a node was exported from, as the exporter recorded it."""
    for prop in node.metadata_props:
        if prop.key == "pkg.torch.onnx.name_scopes":
            found = re.search(r"layers\.(\w+)", prop.value)
            return found.group(1) if found else ""
    return ""


def _role(kind: str, position: int) -> str:
    roles = {"Conv": ("", "kernel", "bias"), "Gemm": ("", "kernel", "bias"), "MatMul": ("", "kernel"),
             "BatchNormalization": ("", "gamma", "beta", "moving_mean", "moving_variance")}  # fmt: skip
    known = roles.get(kind, ())
    return known[position] if position < len(known) and known[position] else f"{kind.lower()}_{position}"


def _fresh(name: str, taken: set[str]) -> str:
    """Returns the name, with a number if it is already taken, and marks it as taken."""
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    taken.add(candidate)
    return candidate


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """Silences the exporter; its result is checked afterwards."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(None):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
