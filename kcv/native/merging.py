"""Layers that a program computes together: padding, convolution, normalisation and activation."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from kcv.native.kernels import Sides
from kcv.native.layers.activations import activation_named
from kcv.native.layers.lowered import Lowered, Run, Value
from kcv.native.program import Step

_LEAST_PIXELS = 2048
"""Pixels of a batch from which normalisation is merged where its statistics are fixed."""


def merged(
    steps: Sequence[Step],
    forms: Mapping[int, Lowered],
    values: Sequence[Value],
    outputs: Sequence[int],
    *,
    on_cpu: bool,
) -> list[Step]:
    """Lets convolutions do what the layers around them do, each of which reads and writes an image once more.

    The step of a convolution takes the place of both.

    Args:
        steps: the steps of a program, none of which frees a value.
        forms: the native forms of its layers, by the index of their output.
        values: its values by index.
        outputs: the indices of its outputs.
        on_cpu: whether the program runs on a CPU. On a GPU, starting five small operations that prepare a kernel takes
            longer than they save.

    Returns:
        The steps without the layers that only padded for one convolution, without activations that only one layer of
        normalisation is in front of and that it can compute, and on a CPU without the layers that only normalise the
        output of one convolution.
    """
    steps, sides = _merge_padding(steps, forms, values, outputs)
    steps, forms = _merge_activation(steps, forms, values, outputs)
    return _merge_normalisation(steps, forms, values, outputs, sides) if on_cpu else steps


def _merge_activation(
    steps: Sequence[Step], forms: Mapping[int, Lowered], values: Sequence[Value], outputs: Sequence[int]
) -> tuple[list[Step], dict[int, Lowered]]:
    """Returns the steps, and the forms with those of the layers that compute their activation, too."""
    merged: dict[int, Step] = {}
    joined = dict(forms)
    for before, step in _pairs(steps, outputs):
        layer, activation = forms.get(before.targets[0]), forms.get(step.targets[0])
        if layer is None or layer.activated is None or activation is None or activation.activation is None:
            continue
        if values[before.targets[0]].dtype == values[step.targets[0]].dtype:
            name = activation.activation
            run = layer.activated(name)
            merged[before.targets[0]] = _joined(before, step, run)
            joined[step.targets[0]] = replace(layer, run=run, activated=None, followed_by=activation_named(name))
    return _with(merged, steps), joined


def _merge_padding(
    steps: Sequence[Step], forms: Mapping[int, Lowered], values: Sequence[Value], outputs: Sequence[int]
) -> tuple[list[Step], dict[int, Sides]]:
    """Returns the steps, and the padding of those that pad their own input, by the index of their output."""
    merged: dict[int, Step] = {}
    sides: dict[int, Sides] = {}
    for before, step in _pairs(steps, outputs):
        padding, convolution = forms.get(before.targets[0]), forms.get(step.targets[0])
        if padding is None or padding.padding is None or convolution is None or convolution.padded is None:
            continue
        # In another dtype the layer would round what the convolution takes as it is.
        if values[before.targets[0]].dtype == values[step.targets[0]].dtype:
            merged[before.targets[0]] = _joined(before, step, convolution.padded(padding.padding))
            sides[step.targets[0]] = padding.padding
    return _with(merged, steps), sides


def _merge_normalisation(
    steps: Sequence[Step],
    forms: Mapping[int, Lowered],
    values: Sequence[Value],
    outputs: Sequence[int],
    sides: Mapping[int, Sides],
) -> list[Step]:
    merged: dict[int, Step] = {}
    for before, step in _pairs(steps, outputs):
        convolution, normalisation = forms.get(before.targets[0]), forms.get(step.targets[0])
        if convolution is None or convolution.scaled is None or normalisation is None or normalisation.affine is None:
            continue
        # In half precision the scaled kernel would be rounded once more.
        if values[before.targets[0]].dtype == values[step.targets[0]].dtype == torch.float32:
            scaled = functools.partial(convolution.scaled, sides=sides.get(before.targets[0], (0, 0, 0, 0)))
            merged[before.targets[0]] = _joined(before, step, _normalised(before.run, scaled, normalisation))
    return _with(merged, steps)


def _normalised(convolution: Run, scaled: Run, normalisation: Lowered) -> Run:
    """Returns a convolution and its normalisation: by scaling the kernel where the statistics are fixed."""

    def run(training: bool, x: Tensor) -> Tensor:
        affine = None
        # An image has to be larger than the kernel, or scaling the kernel takes longer than it saves.
        if len(x) * x.shape[2] * x.shape[3] >= _LEAST_PIXELS:
            affine = normalisation.affine(training)  # type: ignore[misc]
        if affine is None:
            return normalisation.run(training, convolution(training, x))
        y = scaled(training, x, *affine)
        return y if normalisation.followed_by is None else normalisation.followed_by(y)

    return run


def _pairs(steps: Sequence[Step], outputs: Sequence[int]) -> Iterator[tuple[Step, Step]]:
    """Yields each step that has a single input, after the step that makes it, if nothing else reads that."""
    readers = Counter((*(slot for step in steps for slot in step.sources), *outputs))
    makers = {target: step for step in steps for target in step.targets}
    for step in steps:
        before = makers.get(step.sources[0]) if len(step.sources) == 1 else None
        if before is not None and len(before.targets) == 1 and readers[before.targets[0]] == 1:
            yield before, step


def _joined(before: Step, step: Step, run: Run) -> Step:
    """Returns one step for two, which takes what the first reads and makes what the second makes."""
    return replace(step, run=run, sources=before.sources, reference=_in_turn(before.reference, step.reference))


def _with(merged: Mapping[int, Step], steps: Sequence[Step]) -> list[Step]:
    """Returns the steps with the merged ones, each by the value between the two that it takes the place of."""
    kept = [step for step in steps if step.targets[0] not in merged]
    return [merged[step.sources[0]] if step.sources and step.sources[0] in merged else step for step in kept]


def _in_turn(first: Run | None, second: Run | None) -> Run | None:
    if first is None or second is None:
        return None
    return lambda training, x: second(training, first(training, x))
