"""Layers that a program computes together: zeros that a convolution adds itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from kcv.native.layers.lowered import Lowered, Run, Value
from kcv.native.program import Step


def merge_padding(
    steps: Sequence[Step], forms: Mapping[int, Lowered], values: Sequence[Value], outputs: Sequence[int]
) -> list[Step]:
    """Lets convolutions pad their own input where a layer in front of them does, which writes and reads it once more.

    The convolution's step takes the place of both.

    Args:
        steps: the steps of a program, none of which frees a value.
        forms: the native forms of its layers, by the index of their output.
        values: its values by index.
        outputs: the indices of its outputs.

    Returns:
        The steps without the layers that only padded for one convolution.
    """
    readers = Counter((*(slot for step in steps for slot in step.sources), *outputs))
    makers = {step.targets[0]: step for step in steps}
    merged: dict[int, Step] = {}
    for step in steps:
        before = makers.get(step.sources[0]) if len(step.sources) == 1 else None
        if before is None or readers[before.targets[0]] > 1:
            continue
        run = _padded(forms.get(before.targets[0]), forms.get(step.targets[0]))
        # In another dtype the layer would round what the convolution takes as it is.
        if run is not None and values[before.targets[0]].dtype == values[step.targets[0]].dtype:
            reference = _in_turn(before.reference, step.reference)
            merged[before.targets[0]] = replace(step, run=run, sources=before.sources, reference=reference)
    # A padding step is left out, and the step that reads it has the new form.
    kept = [step for step in steps if step.targets[0] not in merged]
    return [merged[step.sources[0]] if step.sources and step.sources[0] in merged else step for step in kept]


def _padded(padding: Lowered | None, convolution: Lowered | None) -> Run | None:
    if padding is None or padding.padding is None or convolution is None or convolution.padded is None:
        return None
    return convolution.padded(padding.padding)


def _in_turn(first: Run | None, second: Run | None) -> Run | None:
    if first is None or second is None:
        return None
    return lambda training, x: second(training, first(training, x))
