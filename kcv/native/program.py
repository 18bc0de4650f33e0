"""A Keras model as a list of native torch calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from kcv.native.layers.lowered import Value
from kcv.native.layers.moving import MovingStatistics


@dataclass(frozen=True)
class Step:
    """One call of a program.

    Attributes:
        name: name of the layer.
        run: called with the mode and the values at `sources`; returns one value, or one per entry of `targets`.
        sources: indices of its inputs.
        targets: indices of its outputs.
        frees: indices of values that no later step uses.
        native: whether it is a torch function; otherwise the Keras layer is called.
        reference: the same call through Keras, if the step is native and has a layer.
        operation: the layer; None if the step only transposes or casts a value.
    """

    name: str
    run: Callable[..., Any]
    sources: tuple[int, ...]
    targets: tuple[int, ...]
    frees: tuple[int, ...] = ()
    native: bool = True
    reference: Callable[..., Any] | None = None
    operation: Any = None

    def advance(self, values: list[Any], training: bool) -> None:
        """Reads its inputs from `values`, stores its outputs there, and frees values that are no longer used."""
        result = self.run(training, *[values[slot] for slot in self.sources])
        if len(self.targets) == 1:
            values[self.targets[0]] = result
        else:
            for slot, value in zip(self.targets, result, strict=True):
                values[slot] = value
        for slot in self.frees:
            values[slot] = None


class StepError(RuntimeError):
    """Raised when a step fails; the message names the layer, and the cause is the original error."""


class Program:
    """Runs the steps of a lowered model, whose parameters and statistics it shares.

    Args:
        steps: in an order in which every value is computed before it is used.
        inputs: indices of the model's inputs.
        outputs: indices of the model's outputs.
        values: the static properties of each value, by index.
        statistics: the moving statistics that a training pass updates.

    Attributes:
        steps: as given.
        inputs: as given.
        values: as given.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        inputs: Sequence[int],
        outputs: Sequence[int],
        values: Sequence[Value],
        statistics: MovingStatistics,
    ) -> None:
        self.steps = tuple(steps)
        self.inputs = tuple(inputs)
        self.values = tuple(values)
        self._outputs = tuple(outputs)
        self._statistics = statistics

    @property
    def fallback_layers(self) -> tuple[str, ...]:
        """The layers without a native form."""
        return tuple(step.name for step in self.steps if not step.native)

    def wrapped(self, wrap: Callable[[Step], Callable[..., Any]]) -> Program:
        """Returns the same program with each step's function replaced by `wrap(step)`."""
        steps = [replace(step, run=wrap(step)) for step in self.steps]
        return Program(steps, self.inputs, self._outputs, self.values, self._statistics)

    def through_keras(self) -> Program:
        """Returns the same program with every layer called through Keras, for use when a native form is wrong."""
        return self.wrapped(lambda step: step.reference or step.run)

    def __call__(self, *tensors: Tensor, training: bool) -> Any:
        """Computes the model's output, or the tuple of its outputs.

        Args:
            tensors: one per input, of any dtype.
            training: whether batch statistics are used and updated, and dropout is active.

        Raises:
            StepError: names the layer that failed.
        """
        if training:
            self._statistics.begin()
        values = self.start(tensors)
        self.advance(values, 0, len(self.steps), training=training)
        if training:
            self._statistics.update()
        return self.results(values)

    def start(self, tensors: Sequence[Tensor]) -> list[Any]:
        """Returns the values before the first step, with the inputs in place, for running the steps in parts."""
        values: list[Any] = [None] * len(self.values)
        for slot, tensor in zip(self.inputs, tensors, strict=True):
            values[slot] = tensor.to(self.values[slot].dtype)
        return values

    def advance(self, values: list[Any], begin: int, end: int, *, training: bool) -> None:
        """Runs the steps from index `begin` up to but excluding `end`, on values computed up to `begin`.

        Raises:
            StepError: names the layer that failed.
        """
        for step in self.steps[begin:end]:
            try:
                step.advance(values, training)
            except Exception as error:
                raise StepError(f"layer {step.name} failed: {error}") from error

    def results(self, values: Sequence[Any]) -> Any:
        """Returns the output, or the tuple of outputs, from the values after the last step."""
        results = tuple(values[slot] for slot in self._outputs)
        return results[0] if len(results) == 1 else results

    def first_mismatch(self, *tensors: Tensor, differ: Callable[[Tensor, Tensor], bool]) -> str | None:
        """Runs each step both natively and through Keras, in inference mode; returns the first layer that differs."""
        values = self.start(tensors)
        for step in self.steps:
            theirs = None
            if step.reference is not None:
                theirs = step.reference(False, *[values[slot] for slot in step.sources])
            (target, *_), frees = step.targets, step.frees
            replace(step, frees=()).advance(values, False)
            if theirs is not None and differ(values[target], theirs):
                return step.name
            for slot in frees:
                values[slot] = None
        return None
