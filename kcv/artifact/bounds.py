"""Limits on the memory and time of a model, checked before any is spent."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from kcv.artifact.archive import SLACK
from kcv.common.text import printable
from kcv.errors import ArtifactError

if TYPE_CHECKING:
    import keras

_MOST_ELEMENTS = 2**31
"""The most numbers that a layer may output for one image: 8 GiB. VGG's first layer outputs half as many at 4096 px."""
_MOST_PRODUCTS = 2**45
"""The most multiplications (or numbers read) for one image: 35 million million. VGG-19 uses a fifth at 4096 px."""
_MOST_POOLED = 2**36
"""The most numbers that pooling layers may read for one image; reading them one by one takes about a minute."""
_WIDEST = 256
"""Pixels by which a window may exceed twice its input's side; many dilated windows exceed small feature maps."""
_NUMBERS = ("float", "bfloat", "int", "uint")


def check_size(config: dict[str, Any], stored: int, origin: str) -> None:
    """Builds a model without allocating its weights, and compares its needs with the content of its file.

    Args:
        config: the file's `config.json`, with classes already checked; Keras modifies it.
        stored: size of its weights, in bytes.
        origin: the file's name, for the message.

    Raises:
        ArtifactError: it is not a built model of images, has more parameters than the file, or exceeds the limits on
            tensor size or computation.
    """
    import keras

    with keras.device("meta"):
        model = keras.saving.deserialize_keras_object(config, safe_mode=True)
    if not isinstance(model, keras.Model) or not model.built or not model.outputs:
        raise ArtifactError(f"{origin}: holds a model that was never built")
    for tensor in model.inputs:
        if not str(tensor.dtype).startswith(_NUMBERS):
            raise ArtifactError(f"{origin}: takes {printable(tensor.dtype)}, not images")
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
    """Checks that every tensor in a model has a known size; otherwise `check_size` misses some of them.

    Raises:
        ArtifactError: a tensor has an unknown size.
    """
    for layer, node in _calls(model):
        for tensor in node.outputs:
            if None in tuple(tensor.shape)[1:]:
                raise ArtifactError(f"{origin}: its layer {_name(layer)} gives tensors of no known size")


def _calls(model: keras.Model) -> Iterator[tuple[Any, Any]]:
    """Yields all pairs of a layer and one of its calls."""
    for layer in model._flatten_layers(include_self=False):
        for node in getattr(layer, "_inbound_nodes", ()):
            yield layer, node


def _name(layer: Any) -> str:
    return printable(layer.name[:100])


def _check_window(layer: Any, node: Any, origin: str) -> None:
    """Rejects a window much larger than its input, because padding makes a small image as large as the window."""
    extents = _extents(layer)
    if not extents or not node.input_tensors:
        return
    widest = 2 * max((side or 0 for side in _sides_of(layer, node)), default=0) + _WIDEST
    if max(extents) > widest and None not in _sides_of(layer, node):
        shown = f"{max(extents):,}"[:40]
        raise ArtifactError(f"{origin}: its layer {_name(layer)} has a window of {shown} px, and {widest:,} make sense")


def _sides_of(layer: Any, node: Any) -> tuple[int | None, ...]:
    """Returns height and width of the input of a convolution or pooling layer; None where they are unknown."""
    shape = tuple(node.input_tensors[0].shape)
    return shape[2:] if getattr(layer, "data_format", None) == "channels_first" else shape[1:-1]


def _within(layer: Any, node: Any) -> int:
    """Returns the most intermediate numbers of a convolution or pooling layer; 0 for other layers.

    With padding "same", the input is padded first, regardless of the output size. A transposed convolution computes
    the full output and then crops it. A separable convolution has more channels between its two steps.
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
    """Returns the extent of the window of a convolution or pooling layer, in pixels; () for other layers."""
    window = getattr(layer, "pool_size", None) or getattr(layer, "kernel_size", None)
    if window is None:
        return ()
    sides = _sides(window, 2)
    dilation = _sides(getattr(layer, "dilation_rate", 1), len(sides))
    return tuple(rate * (side - 1) + 1 for side, rate in zip(sides, dilation, strict=True))


def _each(layer: Any) -> int:
    """Returns the number of products, or of numbers read, per output of a layer."""
    kernel = getattr(layer, "kernel", None)
    if kernel is not None and len(kernel.shape) > 1:
        return math.prod(map(int, kernel.shape)) // max(1, int(kernel.shape[-1]))
    window = getattr(layer, "pool_size", None) or getattr(layer, "kernel_size", None)
    return math.prod(_sides(window, 2)) if window is not None else 1


def _sides(value: Any, count: int) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, Sequence) else (int(value),) * count


def _elements(shape: Sequence[int | None]) -> int:
    return math.prod(size or 1 for size in shape)
