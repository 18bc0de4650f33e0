"""How much a model may ask for, found out before it gets it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from kcv.artifact.archive import SLACK
from kcv.common.text import plain
from kcv.errors import ArtifactError

if TYPE_CHECKING:
    import keras

_MOST_ELEMENTS = 2**31
"""Numbers that a layer may make for a single image: 8 GiB. VGG's first layer gives half of them at 4096 px."""
_MOST_PRODUCTS = 2**45
"""Multiplications, or numbers looked at, for a single image: 35 million million. VGG-19 takes a fifth at 4096 px."""
_MOST_POOLED = 2**36
"""Numbers that pools may look at for a single image, which they do one by one: about a minute."""
_WIDEST = 256
"""Pixels that a window may reach beyond both sides of what it looks at; of dilated ones on small maps many do."""
_NUMBERS = ("float", "bfloat", "int", "uint")


def check_size(config: dict[str, Any], stored: int, origin: str) -> None:
    """Builds a model without memory and compares what it wants with what its file has.

    Args:
        config: the file's `config.json`, whose classes have been checked; Keras changes it.
        stored: bytes of its weights.
        origin: the file's name, for the message.

    Raises:
        ArtifactError: it is no built model of images, has more parameters than the file, or makes tensors or takes
            time beyond all reason.
    """
    import keras

    with keras.device("meta"):
        model = keras.saving.deserialize_keras_object(config, safe_mode=True)
    if not isinstance(model, keras.Model) or not model.built or not model.outputs:
        raise ArtifactError(f"{origin}: holds a model that was never built")
    for tensor in model.inputs:
        if not str(tensor.dtype).startswith(_NUMBERS):
            raise ArtifactError(f"{origin}: takes {plain(tensor.dtype)}, not images")
    wanted = sum(variable.value.numel() * variable.value.element_size() for variable in model.variables)
    if wanted > stored + SLACK:
        raise ArtifactError(f"{origin}: wants {wanted:,} bytes of weights, of which the file has {stored:,}")
    products = pooled = 0
    for layer, node in _calls(model):
        _check_window(layer, node, origin)
        made = max((_elements(tensor.shape) for tensor in node.outputs), default=0)
        most = max(made, _within(layer, node))
        if most > _MOST_ELEMENTS:
            raise ArtifactError(f"{origin}: its layer {_name(layer)} gives {most:,} numbers for one image")
        products += made * _each(layer)
        pooled += made * _each(layer) if hasattr(layer, "pool_size") else 0
    if products > _MOST_PRODUCTS or pooled > _MOST_POOLED:
        raise ArtifactError(f"{origin}: computes {products:,} products for one image")


def check_fixed(model: keras.Model, origin: str) -> None:
    """Checks that every tensor in a model has a known size, without which `check_size` knows only some of them.

    Raises:
        ArtifactError: one has not.
    """
    for layer, node in _calls(model):
        for tensor in node.outputs:
            if None in tuple(tensor.shape)[1:]:
                raise ArtifactError(f"{origin}: its layer {_name(layer)} gives tensors of no known size")


def _calls(model: keras.Model) -> Iterator[tuple[Any, Any]]:
    """Yields each layer with each of its calls."""
    for layer in model._flatten_layers(include_self=False):
        for node in getattr(layer, "_inbound_nodes", ()):
            yield layer, node


def _name(layer: Any) -> str:
    return plain(layer.name[:100])


def _check_window(layer: Any, node: Any, origin: str) -> None:
    """Refuses a window that is much larger than what it looks at: padded to its size, a small image is a huge one."""
    extents = _extents(layer)
    if not extents or not node.input_tensors:
        return
    widest = 2 * max((side or 0 for side in _sides_of(layer, node)), default=0) + _WIDEST
    if max(extents) > widest and None not in _sides_of(layer, node):
        shown = f"{max(extents):,}"[:40]
        raise ArtifactError(f"{origin}: its layer {_name(layer)} has a window of {shown} px, and {widest:,} make sense")


def _sides_of(layer: Any, node: Any) -> tuple[int | None, ...]:
    """Returns height and width of what a convolution or a pool looks at; None where they are open."""
    shape = tuple(node.input_tensors[0].shape)
    return shape[2:] if getattr(layer, "data_format", None) == "channels_first" else shape[1:-1]


def _within(layer: Any, node: Any) -> int:
    """Returns how many numbers a convolution or a pool may hold between its input and its output; 0 for others.

    With padding "same" the input is padded first, whatever comes out of it. A transposed convolution makes all and
    cuts off what is too much. A separable one has more channels between its two steps.
    """
    extents = _extents(layer)
    if not extents or not node.input_tensors:
        return 0
    sides = _sides_of(layer, node)
    channels = node.input_tensors[0].shape[1 if getattr(layer, "data_format", None) == "channels_first" else -1]
    spread = (1,) * len(extents)
    channels = (channels or 1) * (getattr(layer, "depth_multiplier", None) or 1)
    if type(layer).__name__.endswith("Transpose"):
        spread, channels = _sides(layer.strides, len(extents)), max(channels, layer.filters)
    padded = [(side or 1) * stride + extent for side, stride, extent in zip(sides, spread, extents, strict=True)]
    numbers: int = math.prod(padded) * channels
    return numbers


def _extents(layer: Any) -> tuple[int, ...]:
    """Returns how far the window of a convolution or of a pool reaches, in pixels; nothing for other layers."""
    window = getattr(layer, "pool_size", None) or getattr(layer, "kernel_size", None)
    if window is None:
        return ()
    sides = _sides(window, 2)
    dilation = _sides(getattr(layer, "dilation_rate", 1), len(sides))
    return tuple(rate * (side - 1) + 1 for side, rate in zip(sides, dilation, strict=True))


def _each(layer: Any) -> int:
    """Returns how many products, or numbers looked at, one output of a layer takes."""
    kernel = getattr(layer, "kernel", None)
    if kernel is not None and len(kernel.shape) > 1:
        return math.prod(map(int, kernel.shape)) // max(1, int(kernel.shape[-1]))
    window = getattr(layer, "pool_size", None) or getattr(layer, "kernel_size", None)
    return math.prod(_sides(window, 2)) if window is not None else 1


def _sides(value: Any, count: int) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, Sequence) else (int(value),) * count


def _elements(shape: Sequence[int | None]) -> int:
    return math.prod(size or 1 for size in shape)
