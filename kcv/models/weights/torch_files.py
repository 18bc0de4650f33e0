"""Reads weights from PyTorch files and maps their names to Keras."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kcv.common.text import printable
from kcv.errors import WeightsError, first_line
from kcv.models.head import LOGITS
from kcv.models.network import Network
from kcv.models.pretrained import Pretrained
from kcv.models.weights import state_dict


def read(path: Path, network: Network) -> Pretrained:
    """Reads the state dict of a network.

    Args:
        path: a `.pth` or `.pt` file that contains only tensors, or a `.safetensors` file.
        network: the network that the weights are for; it must exist in PyTorch.

    Raises:
        WeightsError: the file is damaged, contains code, or belongs to another network.
    """
    torch_file = network.torch_file
    if torch_file is None:
        raise WeightsError(f"{path}: weights of {network.name} are not read from files of PyTorch.")
    tensors = {torch_file.renamed(name): tensor for name, tensor in state_dict.read(path).items()}
    wanted = list(torch_file.layers())
    layers = {}
    for keras_name, torch_name, kind in wanted:
        try:
            layers[keras_name] = _CONVERTERS[kind](tensors, torch_name)
        except KeyError as error:
            if keras_name == LOGITS:
                continue  # a backbone alone is enough
            raise WeightsError(f"{path}: has no {error.args[0]}: it does not hold {torch_file.origin}.") from None
        except ValueError:
            name = torch_name if torch_name in tensors else f"{torch_name}.weight"
            shape = "x".join(map(str, tensors[name].shape))
            raise WeightsError(f"{path}: its {name} is {shape}: it does not hold {torch_file.origin}.") from None
        except TypeError as error:
            raise WeightsError(f"{path}: its {torch_name} is no plain tensor of floats: {first_line(error)}.") from None
    more = _more_than({torch_name for _, torch_name, _ in wanted}, tensors)
    if more is not None:
        raise WeightsError(f"{path}: has {printable(more)[:100]} as well: it does not hold {torch_file.origin}.")
    return Pretrained(str(path), torch_file.variant, layers)


def _more_than(layers: Container[str], tensors: Iterable[str]) -> str | None:
    """Returns a tensor that no layer uses, or None: a deeper network contains all layers of this one, and others."""
    head = {"fc", "classifier", "_fc"}  # a classifier of any shape is allowed
    names = (name for name in tensors if name.rpartition(".")[0] not in layers and name.split(".")[0] not in head)
    return next((name for name in names if name not in layers), None)


def _array(tensor: Tensor, order: tuple[int, ...] | None = None) -> NDArray[np.float32]:
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta or not tensor.is_floating_point():
        raise TypeError(f"{tensor.dtype}, {tensor.layout}, on {tensor.device}")
    if order is not None:
        if tensor.ndim != len(order):
            raise ValueError(f"rank {tensor.ndim} instead of {len(order)}")
        tensor = tensor.permute(order)
    return np.ascontiguousarray(tensor.detach().float().numpy())


def _convolution(tensors: Mapping[str, Tensor], name: str) -> list[NDArray[np.float32]]:
    """Converts OIHW to HWIO, and adds the bias if there is one."""
    kernel = [_array(tensors[f"{name}.weight"], (2, 3, 1, 0))]
    return kernel + ([_array(tensors[f"{name}.bias"])] if f"{name}.bias" in tensors else [])


def _depthwise(tensors: Mapping[str, Tensor], name: str) -> list[NDArray[np.float32]]:
    """Converts [channels, 1, h, w] to [h, w, channels, 1]."""
    return [_array(tensors[f"{name}.weight"], (2, 3, 0, 1))]


def _normalisation(tensors: Mapping[str, Tensor], name: str) -> list[NDArray[np.float32]]:
    return [_array(tensors[f"{name}.{part}"]) for part in ("weight", "bias", "running_mean", "running_var")]


def _layer_normalisation(tensors: Mapping[str, Tensor], name: str) -> list[NDArray[np.float32]]:
    return [_array(tensors[f"{name}.{part}"]) for part in ("weight", "bias")]


def _scale(tensors: Mapping[str, Tensor], name: str) -> list[NDArray[np.float32]]:
    """Converts a scale per channel, [channels, 1, 1], to the kernel of a depthwise 1x1 convolution."""
    return [_array(tensors[name], (1, 2, 0))[..., None]]


def _pointwise(tensors: Mapping[str, Tensor], name: str) -> list[NDArray[np.float32]]:
    """Converts a linear layer, [out, in], to a 1x1 convolution."""
    kernel, bias = _dense(tensors, name)
    return [kernel[None, None], bias]


def _dense(tensors: Mapping[str, Tensor], name: str) -> list[NDArray[np.float32]]:
    return [_array(tensors[f"{name}.weight"], (1, 0)), _array(tensors[f"{name}.bias"])]


_CONVERTERS: dict[str, Callable[[Mapping[str, Tensor], str], list[NDArray[np.float32]]]] = {
    "conv": _convolution,
    "depthwise": _depthwise,
    "norm": _normalisation,
    "dense": _dense,
    "layer_norm": _layer_normalisation,
    "pointwise": _pointwise,
    "scale": _scale,
}
