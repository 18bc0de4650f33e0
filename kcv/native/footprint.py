"""How many images a model processes at once without gradients, limited by the bytes of its activations.

A batch of 256 is small for images of 32 px and takes gigabytes for images of 192 px. The number depends only on the
graph, so that every command and every process splits a batch of the same model in the same way, and metrics are
reproduced exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import torch
from torch import Tensor

from kcv.native.program import Program

MOST_BYTES = 256 * 2**20
"""Limit for the activations that exist at the same time."""

_WIDEST = 4  # bytes of a float32, assumed for a layer without a known program
_AT_ONCE = 3  # tensors of its largest layer that such a model is assumed to hold


def images_at_once(bytes_per_image: int) -> int:
    """Returns how many images fit into `MOST_BYTES`, at least one."""
    return max(1, MOST_BYTES // max(1, bytes_per_image))


def bytes_of_program(program: Program, kept_from: int | None = None) -> int:
    """Returns the peak number of bytes that a program holds for one image.

    Args:
        program: the program.
        kept_from: the index of the step from which all values are kept because gradients need them; None: every value
            is freed after its last use.
    """
    sizes = [_bytes(value.shape, value.dtype) for value in program.values]
    live = set(program.inputs)
    most = held = sum(sizes[slot] for slot in live)
    for number, step in enumerate(program.steps):
        made = set(step.targets) - live
        live |= made
        held += sum(sizes[slot] for slot in made)
        most = max(most, held)
        if kept_from is None or number < kept_from:
            freed = live & set(step.frees)
            live -= freed
            held -= sum(sizes[slot] for slot in freed)
    return most


def bytes_of_model(model: keras.Model) -> int:
    """Returns an estimate of the bytes that a model run by Keras holds at the same time for one image."""
    layers = model._flatten_layers(include_self=False)
    nodes = (node for layer in layers for node in getattr(layer, "_inbound_nodes", ()))
    tensors = (tensor for node in nodes for tensor in keras.tree.flatten(node.outputs))
    largest = max((math.prod(size or 1 for size in tensor.shape) for tensor in tensors), default=1)
    return _AT_ONCE * _WIDEST * largest


def in_parts(run: Callable[..., Any], tensors: Sequence[Tensor], at_once: int) -> Any:
    """Runs a forward pass on nearly equal parts of a batch and concatenates the outputs.

    Args:
        run: takes tensors [batch, ...]; returns such a tensor, or a tuple or list of tensors.
        tensors: the inputs of `run`.
        at_once: the largest number of images per part.
    """
    count = len(tensors[0])
    if count <= at_once:
        return run(*tensors)
    cuts = -(-count // at_once)
    results = [run(*part) for part in zip(*(torch.tensor_split(tensor, cuts) for tensor in tensors), strict=True)]
    if isinstance(results[0], list | tuple):
        return tuple(torch.cat(outputs) for outputs in zip(*results, strict=True))
    return torch.cat(results)


def _bytes(shape: Sequence[int | None], dtype: torch.dtype) -> int:
    return math.prod(size or 1 for size in shape) * dtype.itemsize
