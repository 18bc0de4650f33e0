"""Lowers a Keras functional model to a program: walks its graph and maps each layer to its native form."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import keras
import torch
from keras import layers
from keras.src.models.functional import Functional  # no public name; a subclass may compute something else

from kcv.native.layers import LOWERINGS
from kcv.native.layers.lowered import Lowered, Target, Unsupported, Value, to_keras_order, to_torch_order, torch_dtype
from kcv.native.layers.moving import MovingStatistics
from kcv.native.merging import merged
from kcv.native.program import Program, Step

_log = logging.getLogger(__name__)

_HALF = (torch.bfloat16, torch.float16)

_MASKING = (layers.Masking, layers.Embedding)
"""Layers whose outputs may carry a mask to later layers, which native functions would lose."""


def lower(model: keras.Model, target: Target | None = None) -> Program:
    """Lowers a functional model.

    Args:
        model: functional or sequential, built; nested models are lowered too.
        target: what to lower for.

    Returns:
        A program on the model's own parameters and statistics. The kernels' memory layout changes; their shapes and
        values do not.

    Raises:
        Unsupported: names what cannot be lowered: a model that is not a graph, or a layer that creates masks.
    """
    walk = _Walk(target or Target())
    graph = _graph(model)
    if graph is None:
        raise Unsupported(f"{model.name} ({type(model).__name__}) is no functional model")
    return walk.program(graph, [walk.add_value(tensor) for tensor in graph.inputs])


def _graph(operation: Any) -> Any:
    """Returns the graph behind a model, or None if there is none or if its call may do more than the graph."""
    if type(operation) is keras.Sequential:
        operation = operation._functional
    return operation if type(operation) is Functional else None


def _nodes(graph: Any) -> Iterator[Any]:
    """Yields the graph's calls in the order in which Keras runs them, each after those it depends on."""
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        for node in graph._nodes_by_depth[depth]:
            if node.operation is not None and not node.is_input:
                yield node


class _Walk:
    """The state of one lowering: the values and the steps so far."""

    def __init__(self, target: Target) -> None:
        self._statistics = MovingStatistics()
        self._target = replace(target, statistics=self._statistics)
        self._values: list[Value] = []  # here `reusable` means that the value is not saved for backward
        self._held_otherwise: dict[int, int] = {}
        self._steps: list[Step] = []
        self._forms: dict[int, Lowered] = {}  # of native steps, by the index of their output

    def add_value(self, tensor: keras.KerasTensor, *, transposed: bool = False, reusable: bool = False) -> int:
        """Adds a value like `tensor` and returns its index."""
        self._values.append(Value(tuple(tensor.shape), torch_dtype(tensor.dtype), transposed, reusable))
        return len(self._values) - 1

    def graph(self, graph: Any, inputs: Sequence[int]) -> list[int]:
        """Adds the calls of one graph; returns the indices of its outputs."""
        slots = {id(tensor): slot for tensor, slot in zip(graph.inputs, inputs, strict=True)}
        readers = Counter(id(tensor) for node in _nodes(graph) for tensor in node.input_tensors)
        readers.update(id(tensor) for tensor in graph.outputs)
        for node in _nodes(graph):
            sources = [slots[id(tensor)] for tensor in node.input_tensors]
            inner = _graph(node.operation)
            if inner is not None and _is_plain(node):
                # Consumers are counted per graph, so values that cross the boundary must not be overwritten.
                self._keep(sources)
                made = self.graph(inner, [self._typed(*pair) for pair in zip(sources, inner.inputs, strict=True)])
                self._keep(made)
            else:
                made = self._call(node, sources, [readers[id(tensor)] == 1 for tensor in node.input_tensors])
            slots.update((id(tensor), slot) for tensor, slot in zip(node.outputs, made, strict=True))
        return [slots[id(tensor)] for tensor in graph.outputs]

    def program(self, graph: Any, inputs: Sequence[int]) -> Program:
        """Returns the program of all steps, which frees each value after its last use."""
        outputs = [self._held(slot, transposed=False) for slot in self.graph(graph, inputs)]
        if not self._target.keeps_layers:
            on_cpu = all(variable.value.device.type == "cpu" for variable in graph.variables[:1])
            self._steps = merged(self._steps, self._forms, self._values, outputs, on_cpu=on_cpu)
        last: dict[int, int] = {}
        for number, step in enumerate(self._steps):
            last.update(dict.fromkeys((*step.sources, *step.targets), number))
        for slot in outputs:
            last.pop(slot, None)
        frees: dict[int, list[int]] = {}
        for slot, number in last.items():
            frees.setdefault(number, []).append(slot)
        steps = [replace(step, frees=tuple(frees.get(number, ()))) for number, step in enumerate(self._steps)]
        return Program(steps, inputs, outputs, self._values, self._statistics)

    def _call(self, node: Any, sources: Sequence[int], alone: Sequence[bool]) -> list[int]:
        """Adds the step of one call; `alone` is, for each input, whether this call is its only consumer."""
        name = node.operation.name
        lowered = self._lower(node, sources, alone)
        if lowered is None:
            if isinstance(node.operation, _MASKING):
                raise Unsupported(f"{name} ({type(node.operation).__name__}) makes masks")
            sources = [self._held(slot, transposed=False) for slot in sources]
            made = [self.add_value(tensor) for tensor in node.outputs]
            slots = tuple(sources), tuple(made)
            self._steps.append(Step(name, _as_it_is(node), *slots, native=False, operation=node.operation))
            return made
        sources = [self._held(slot, transposed=lowered.input_transposed) for slot in sources]
        made = [self.add_value(node.outputs[0], transposed=lowered.output_transposed, reusable=lowered.output_reusable)]
        reference = _held_as(_as_it_is(node), lowered)
        step = Step(name, lowered.run, tuple(sources), tuple(made), reference=reference, operation=node.operation)
        self._steps.append(step)
        self._forms[made[0]] = lowered
        return made

    def _lower(self, node: Any, sources: Sequence[int], alone: Sequence[bool]) -> Lowered | None:
        """Returns the native form of a call, or None if it has none."""
        layer = node.operation
        make = LOWERINGS.get(type(layer))
        if make is None or not _is_plain(node) or getattr(layer, "activity_regularizer", None) is not None:
            return None
        values = [self._values[slot] for slot in sources]
        inputs = [replace(value, reusable=value.reusable and only) for value, only in zip(values, alone, strict=True)]
        try:
            return make(layer, inputs, self._target)
        except Unsupported as reason:
            _log.debug("%s (%s) is called as it is: %s", layer.name, type(layer).__name__, reason)
            return None

    def _held(self, slot: int, *, transposed: bool) -> int:
        """Returns the index of the same value in the requested dimension order; if needed after a new step."""
        value = self._values[slot]
        if value.transposed == transposed or len(value.shape) != 4:
            return slot
        if slot not in self._held_otherwise:
            self._values.append(replace(value, transposed=transposed, reusable=False))
            self._held_otherwise[slot] = len(self._values) - 1
            run = to_torch_order if transposed else to_keras_order
            self._steps.append(Step("layout", run, (slot,), (self._held_otherwise[slot],)))
        return self._held_otherwise[slot]

    def _typed(self, slot: int, tensor: keras.KerasTensor) -> int:
        """Returns the index of the same value in the dtype that a nested model expects."""
        value, dtype = self._values[slot], torch_dtype(tensor.dtype)
        if value.dtype == dtype or (dtype == torch.float32 and value.dtype in _HALF):
            return slot  # its layers cast down again, so nothing is lost
        self._values.append(replace(value, dtype=dtype))
        self._steps.append(Step("cast", lambda training, x: x.to(dtype), (slot,), (len(self._values) - 1,)))
        return len(self._values) - 1

    def _keep(self, slots: Sequence[int]) -> None:
        for slot in slots:
            self._values[slot] = replace(self._values[slot], reusable=False)


def _is_plain(node: Any) -> bool:
    """Whether a call takes only tensors, each once, and at most `training`, as native forms require."""
    arguments = keras.tree.flatten(node.arguments.args)
    others = {key: value for key, value in node.arguments.kwargs.items() if key != "training" and value is not None}
    return not others and [id(x) for x in arguments] == [id(x) for x in node.input_tensors]


def _held_as(call: Callable[..., Any], lowered: Lowered) -> Callable[..., Any]:
    """Returns a Keras call that takes and returns tensors in the native form's dimension order."""

    def run(training: bool, *tensors: Any) -> Any:
        if lowered.input_transposed:
            tensors = tuple(to_keras_order(training, x) if x.ndim == 4 else x for x in tensors)
        output = call(training, *tensors)
        return to_torch_order(training, output) if lowered.output_transposed else output

    return run


def _as_it_is(node: Any) -> Callable[..., Any]:
    """Returns the call of a Keras operation with all its original arguments."""
    operation, arguments = node.operation, node.arguments
    keys = [id(tensor) for tensor in node.input_tensors]
    takes_training = "training" in getattr(operation, "_call_context_args", {})

    def run(training: bool, *tensors: Any) -> Any:
        args, kwargs = arguments.fill_in(dict(zip(keys, tensors, strict=True)))
        if takes_training:
            kwargs["training"] = training  # the outer mode takes precedence over the call's own, as in Keras
        return operation(*args, **kwargs)

    return run
