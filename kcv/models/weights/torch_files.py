"""Weights in PyTorch's files, and what their names are in Keras."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kcv.common.text import plain
from kcv.errors import WeightsError, first_line
from kcv.models.head import LOGITS
from kcv.models.weights import state_dict
from kcv.models.weights.pretrained import Pretrained

_BLOCKS = (1, 2, 2, 3, 3, 4, 1)  # of EfficientNet-B0's seven stages

Layer = tuple[str, str, str]
"""Name in Keras, name in torch, and what it is: conv, depthwise, norm or dense."""


def read(path: Path, name: str) -> Pretrained:
    """Reads the state dict of torchvision's ResNet-50 or EfficientNet-B0, or of EfficientNet-Lite0.

    Args:
        path: a `.pth` or `.pt` file of tensors and nothing else, or `.safetensors`.
        name: the model that it is for.

    Raises:
        WeightsError: the file is damaged, holds code, or is of another network.
    """
    tensors = state_dict.read(path)
    wanted = list(_LAYERS[name]())
    layers = {}
    for keras_name, torch_name, kind in wanted:
        try:
            layers[keras_name] = _CONVERTERS[kind](tensors, torch_name)
        except KeyError as error:
            if keras_name == LOGITS:
                continue  # a backbone alone will do
            raise WeightsError(f"{path}: has no {error.args[0]}: it does not hold {_ORIGINS[name]}.") from None
        except ValueError:
            shape = "x".join(map(str, tensors[f"{torch_name}.weight"].shape))
            raise WeightsError(
                f"{path}: its {torch_name}.weight is {shape}: it does not hold {_ORIGINS[name]}."
            ) from None
        except TypeError as error:
            raise WeightsError(f"{path}: its {torch_name} is no plain tensor of floats: {first_line(error)}.") from None
    more = _more_than({torch_name for _, torch_name, _ in wanted}, tensors)
    if more is not None:
        raise WeightsError(f"{path}: has {plain(more)[:100]} as well: it does not hold {_ORIGINS[name]}.")
    return Pretrained(str(path), "keras" if name == "efficientnet_lite0" else "torchvision", layers)


def _more_than(layers: Container[str], tensors: Iterable[str]) -> str | None:
    """Returns a tensor that no layer takes: a deeper network has all layers of this one, and others between them."""
    head = {"fc", "classifier", "_fc"}  # of any shape
    names = (name for name in tensors if name.rpartition(".")[0] not in layers and name.split(".")[0] not in head)
    return next(names, None)


def _array(tensor: Tensor, order: tuple[int, ...] | None = None) -> NDArray[np.float32]:
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta or not tensor.is_floating_point():
        raise TypeError(f"{tensor.dtype}, {tensor.layout}, on {tensor.device}")
    if order is not None:
        if tensor.ndim != len(order):
            raise ValueError(f"rank {tensor.ndim} instead of {len(order)}")
        tensor = tensor.permute(order)
    return np.ascontiguousarray(tensor.detach().float().numpy())


def _convolution(tensors: Mapping[str, Tensor], name: str) -> list[NDArray[np.float32]]:
    """OIHW to HWIO, with the bias where there is one."""
    kernel = [_array(tensors[f"{name}.weight"], (2, 3, 1, 0))]
    return kernel + ([_array(tensors[f"{name}.bias"])] if f"{name}.bias" in tensors else [])


def _depthwise(tensors: Mapping[str, Tensor], name: str) -> list[NDArray[np.float32]]:
    """[channels, 1, h, w] to [h, w, channels, 1]."""
    return [_array(tensors[f"{name}.weight"], (2, 3, 0, 1))]


def _normalisation(tensors: Mapping[str, Tensor], name: str) -> list[NDArray[np.float32]]:
    return [_array(tensors[f"{name}.{part}"]) for part in ("weight", "bias", "running_mean", "running_var")]


def _dense(tensors: Mapping[str, Tensor], name: str) -> list[NDArray[np.float32]]:
    return [_array(tensors[f"{name}.weight"], (1, 0)), _array(tensors[f"{name}.bias"])]


_CONVERTERS: dict[str, Callable[[Mapping[str, Tensor], str], list[NDArray[np.float32]]]] = {
    "conv": _convolution,
    "depthwise": _depthwise,
    "norm": _normalisation,
    "dense": _dense,
}


def _resnet50() -> Iterator[Layer]:
    yield "conv1_conv", "conv1", "conv"
    yield "conv1_bn", "bn1", "norm"
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        for block in range(blocks):
            ours, theirs = f"conv{stage + 1}_block{block + 1}", f"layer{stage}.{block}"
            if block == 0:
                yield f"{ours}_0_conv", f"{theirs}.downsample.0", "conv"
                yield f"{ours}_0_bn", f"{theirs}.downsample.1", "norm"
            for place in (1, 2, 3):
                yield f"{ours}_{place}_conv", f"{theirs}.conv{place}", "conv"
                yield f"{ours}_{place}_bn", f"{theirs}.bn{place}", "norm"
    yield LOGITS, "fc", "dense"


def _efficientnet_b0() -> Iterator[Layer]:
    yield "stem_conv", "features.0.0", "conv"
    yield "stem_bn", "features.0.1", "norm"
    for stage, block, ours in _efficientnet_blocks():
        theirs = f"features.{stage}.{block}.block"
        part = 0
        if stage > 1:
            yield f"{ours}_expand_conv", f"{theirs}.{part}.0", "conv"
            yield f"{ours}_expand_bn", f"{theirs}.{part}.1", "norm"
            part += 1
        yield f"{ours}_dwconv", f"{theirs}.{part}.0", "depthwise"
        yield f"{ours}_bn", f"{theirs}.{part}.1", "norm"
        yield f"{ours}_se_reduce", f"{theirs}.{part + 1}.fc1", "conv"
        yield f"{ours}_se_expand", f"{theirs}.{part + 1}.fc2", "conv"
        yield f"{ours}_project_conv", f"{theirs}.{part + 2}.0", "conv"
        yield f"{ours}_project_bn", f"{theirs}.{part + 2}.1", "norm"
    yield "top_conv", "features.8.0", "conv"
    yield "top_bn", "features.8.1", "norm"
    yield LOGITS, "classifier.1", "dense"


def _efficientnet_lite0() -> Iterator[Layer]:
    yield "stem_conv", "_conv_stem", "conv"
    yield "stem_bn", "_bn0", "norm"
    for number, (stage, _, ours) in enumerate(_efficientnet_blocks()):
        theirs = f"_blocks.{number}"
        if stage > 1:
            yield f"{ours}_expand_conv", f"{theirs}._expand_conv", "conv"
            yield f"{ours}_expand_bn", f"{theirs}._bn0", "norm"
        yield f"{ours}_dwconv", f"{theirs}._depthwise_conv", "depthwise"
        yield f"{ours}_bn", f"{theirs}._bn1", "norm"
        yield f"{ours}_project_conv", f"{theirs}._project_conv", "conv"
        yield f"{ours}_project_bn", f"{theirs}._bn2", "norm"
    yield "top_conv", "_conv_head", "conv"
    yield "top_bn", "_bn1", "norm"
    yield LOGITS, "_fc", "dense"


def _efficientnet_blocks() -> Iterator[tuple[int, int, str]]:
    """Yields stage (from 1), block in it (from 0), and the block's name in Keras."""
    for stage, blocks in enumerate(_BLOCKS, start=1):
        for block in range(blocks):
            yield stage, block, f"block{stage}{chr(ord('a') + block)}"


_LAYERS: dict[str, Callable[[], Iterator[Layer]]] = {
    "resnet50": _resnet50,
    "efficientnet_b0": _efficientnet_b0,
    "efficientnet_lite0": _efficientnet_lite0,
}
_ORIGINS = {
    "resnet50": "torchvision's resnet50",
    "efficientnet_b0": "torchvision's efficientnet_b0",
    "efficientnet_lite0": "efficientnet_lite0",
}
