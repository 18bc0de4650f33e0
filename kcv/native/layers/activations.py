"""Maps Keras activations to the torch functions that compute the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras
import torch
import torch.nn.functional as F
from keras import layers
from torch import Tensor

from kcv.native.layers.lowered import Lowered, Target, Unsupported, Value, compute_dtype, lowers, require

_FUNCTIONS: dict[Any, Callable[[Tensor], Tensor]] = {
    keras.activations.relu: F.relu,
    keras.activations.relu6: F.relu6,
    keras.activations.silu: F.silu,
    keras.activations.gelu: F.gelu,  # both exact by default, not the tanh approximation
    keras.activations.sigmoid: torch.sigmoid,
    keras.activations.tanh: torch.tanh,
    keras.activations.elu: F.elu,
    keras.activations.selu: F.selu,
    keras.activations.softplus: F.softplus,
    keras.activations.mish: F.mish,
    keras.activations.hard_sigmoid: F.hardsigmoid,
    keras.activations.hard_silu: F.hardswish,
}


_IN_PLACE: dict[Any, Callable[[Tensor], Tensor]] = {F.relu: F.relu_, F.relu6: partial(F.relu6, inplace=True)}
"""Those whose gradient follows from their output, so that they may overwrite their input."""

_IN_KERNELS: dict[str, Callable[..., Tensor]] = {"relu": F.relu, "relu6": F.relu6, "silu": F.silu}


def activation_named(name: str) -> Callable[[Tensor], Tensor]:
    """Returns torch's form of an activation of `kcv.native.kernels`. Without gradients it overwrites its input."""
    function = _IN_KERNELS[name]
    return lambda x: function(x, inplace=not torch.is_grad_enabled())


def native_activation(function: Any) -> Callable[[Tensor], Tensor] | None:
    """Returns the torch form of an elementwise Keras activation, or None for the identity.

    Raises:
        Unsupported: any other function.
    """
    if function is None or function is keras.activations.linear:
        return None
    try:
        return _FUNCTIONS[function]
    except (KeyError, TypeError):
        raise Unsupported(f"activation {getattr(function, '__name__', function)}") from None


def then(run: Callable[[bool, Tensor], Tensor], activation: Any) -> Callable[[bool, Tensor], Tensor]:
    """Returns `run` followed by the layer's activation, if it has one."""
    function = native_activation(activation)
    if function is None:
        return run
    return lambda training, x: function(run(training, x))


def _elementwise(layer: Any, inputs: Sequence[Value], target: Target, function: Callable[[Tensor], Tensor]) -> Lowered:
    (value,) = inputs
    dtype = compute_dtype(layer)
    name = next((name for name, other in _IN_KERNELS.items() if other is function), None)
    overwrites = value.reusable and value.dtype == dtype and target.in_place
    if overwrites:
        function = _IN_PLACE.get(function, function)

    def run(training: bool, x: Tensor) -> Tensor:
        return function(x.to(dtype))

    def run_silu(training: bool, x: Tensor) -> Tensor:
        # Unlike that of ReLU, its gradient needs the input.
        return F.silu(x.to(dtype), inplace=not torch.is_grad_enabled())

    return Lowered(
        run_silu if function is F.silu and overwrites else run,
        input_transposed=value.transposed,
        output_transposed=value.transposed,
        activation=name,
    )


@lowers(layers.Activation)
def lower_activation(layer: Any, inputs: Sequence[Value], target: Target) -> Lowered:
    """Lowers `Activation`."""
    function = native_activation(layer.activation)
    return _elementwise(layer, inputs, target, function or (lambda x: x))


@lowers(layers.ReLU)
def lower_relu(layer: Any, inputs: Sequence[Value], target: Target) -> Lowered:
    """Lowers `ReLU`, plain or capped at 6."""
    require(layer.negative_slope == 0 and layer.threshold == 0 and layer.max_value in (None, 6), "a shaped ReLU")
    return _elementwise(layer, inputs, target, F.relu if layer.max_value is None else F.relu6)


@lowers(layers.LeakyReLU)
def lower_leaky_relu(layer: Any, inputs: Sequence[Value], target: Target) -> Lowered:
    """Lowers `LeakyReLU`."""
    slope = float(layer.negative_slope)
    return _elementwise(layer, inputs, target, lambda x: F.leaky_relu(x, slope))


@lowers(layers.ELU)
def lower_elu(layer: Any, inputs: Sequence[Value], target: Target) -> Lowered:
    """Lowers `ELU`."""
    alpha = float(layer.alpha)
    return _elementwise(layer, inputs, target, lambda x: F.elu(x, alpha))


@lowers(layers.Softmax)
def lower_softmax(layer: Any, inputs: Sequence[Value], target: Target) -> Lowered:
    """Lowers `Softmax` over one axis."""
    require(isinstance(layer.axis, int), "Softmax over several axes")
    axis, dtype = layer.axis, compute_dtype(layer)
    return Lowered(lambda training, x: F.softmax(x.to(dtype), dim=axis))
