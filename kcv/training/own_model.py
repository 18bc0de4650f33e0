"""Checks a model of the user's own before a run folder is created: one that was passed, or that a function built."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any, Final

import keras
import torch
from keras.src.models.functional import Functional

from kcv.artifact.allowed_layers import LAYERS, check_classes
from kcv.artifact.bounds import check_fixed, check_size
from kcv.artifact.structure import check_structure
from kcv.common.text import printable, shortened
from kcv.config import Config, ModelConfig
from kcv.distributed.group import Group
from kcv.errors import ArtifactError, ConfigError, DeviceError, UsageError, first_line
from kcv.models import registry
from kcv.native.device import device_scope

_PRECISIONS: Final = ("float32", "mixed_bfloat16", "mixed_float16")
_MOST_NAME: Final = 100  # characters of a layer's name in a message
_NOT_LOGITS: Final = ("softmax", "sigmoid", "log_softmax")


def check_model(model: Any) -> keras.Model:
    """Checks everything that can be checked without the data.

    Raises:
        UsageError: kcv cannot train, save and reload the model; the message says why.
    """
    if not isinstance(model, keras.Model):
        raise UsageError(f"model: received a {printable(type(model).__name__)}, allowed: a functional keras.Model")
    if not isinstance(model, Functional):
        name = type(model).__name__
        rest = "; keras.Model(model.inputs, model.outputs) is one" if isinstance(model, keras.Sequential) else ""
        raise UsageError(f"model: is a {printable(name)}, allowed: a functional keras.Model{rest}")
    if model.compiled:
        raise UsageError("model: is compiled, allowed: one that is not; kcv brings optimizer, loss and metrics")
    _check_shapes(model)
    _check_layers(model)
    _check_logits(model)
    if model.dtype_policy.name not in _PRECISIONS:
        raise UsageError(f"model: computes in {model.dtype_policy.name}, allowed: {', '.join(_PRECISIONS)}")
    _check_gradients(model)
    return model


def with_model(config: Config, model: keras.Model) -> Config:
    """Returns a configuration with the model's own image size and precision, which take precedence.

    Raises:
        ConfigError: the configuration asks for other values, or sets options that only kcv's own networks have.
    """
    size, precision = int(model.input_shape[1]), model.dtype_policy.name
    problems = []
    if config.data.image_size not in (None, size):
        problems.append(f"data.image_size: received {config.data.image_size}, but the model takes {size}.")
    if config.precision not in ("auto", precision):
        problems.append(f"precision: received {config.precision!r}, but the model computes in {precision}.")
    default = ModelConfig().model_dump()
    # The name of the default network, which stands in the files of earlier versions where none was given.
    earlier = config.model.name == registry.default()
    given = {key: value for key, value in config.model.model_dump().items() if not (key == "name" and earlier)}
    changed = [f"model.{key}" for key, value in given.items() if value != default[key]]
    changed += [f"optim.{key}" for key in ("backbone_lr_scale", "layer_decay") if getattr(config.optim, key) != 1.0]
    problems += [f"{key}: is for kcv's own networks, not for a model that is passed." for key in changed]
    if problems:
        raise ConfigError(problems)
    values = config.to_dict()
    values["data"]["image_size"], values["precision"] = size, precision
    return Config.from_dict(values)


def check_place(model: keras.Model, num_classes: int, device: str) -> None:
    """Checks a model against the data and the device of the run.

    Raises:
        UsageError: the number of logits differs from the number of classes.
        DeviceError: the model is on another device.
    """
    if model.output_shape[1] != num_classes:
        raise UsageError(f"model: gives {model.output_shape[1]} logits, but the data have {num_classes} classes")
    where = {variable.value.device.type for variable in model.variables}
    if where - {device}:
        raise DeviceError(
            f"model: is on {', '.join(sorted(where))}, the run on {device}; build it under keras.device({device!r})"
        )


def share_weights(model: keras.Model, group: Group) -> None:
    """Broadcasts the main process's weights, because each process has built the model separately."""
    if group.is_distributed:
        weights = group.broadcast([variable.value.detach().cpu() for variable in model.variables])
        with torch.no_grad():
            for variable, value in zip(model.variables, weights, strict=True):
                variable.value.copy_(value)


def digest_of(model: keras.Model) -> str:
    """Returns the SHA-256 (hex) of a model's layers and options; names, which contain running numbers, are ignored."""
    config = json.loads(model.to_json())
    names = {name: f"#{number}" for number, name in enumerate(_names(config))}
    return hashlib.sha256(json.dumps(_renamed(config, names), sort_keys=True).encode()).hexdigest()


def _names(node: Any) -> list[str]:
    """Returns the names of models and layers in order of appearance."""
    found: dict[str, None] = {}
    pending = [node]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            inner = node.get("config")
            if isinstance(inner, dict) and isinstance(name := inner.get("name"), str):
                found.setdefault(name)
            pending.extend(reversed(node.values()))
        elif isinstance(node, list):
            pending.extend(reversed(node))
    return list(found)


def _renamed(node: Any, names: dict[str, str]) -> Any:
    if isinstance(node, dict):
        return {key: _renamed(value, names) for key, value in node.items()}
    if isinstance(node, list):
        return [_renamed(value, names) for value in node]
    return names.get(node, node) if isinstance(node, str) else node


def _check_shapes(model: Functional) -> None:
    shapes = (model.input_shape, model.output_shape)
    if not (_is_images(shapes[0]) and _is_rows(shapes[1])):
        shown = " to ".join(shortened(printable(shape), 100) for shape in shapes)
        raise UsageError(f"model: maps {shown}, allowed: (None, size, size, 3) to (None, classes), one tensor each")
    if shapes[1][1] < 2:
        raise UsageError("model: gives one logit, allowed: one for each of two classes or more")


def _is_images(shape: Any) -> bool:
    """Whether a shape is one tensor of square RGB images of fixed size."""
    if not isinstance(shape, tuple) or len(shape) != 4:
        return False
    batch, height, width, channels = shape
    return batch is None and isinstance(height, int) and height == width and channels == 3


def _is_rows(shape: Any) -> bool:
    """Whether a shape is one tensor with a row of known length per image."""
    return isinstance(shape, tuple) and len(shape) == 2 and shape[0] is None and isinstance(shape[1], int)


def _check_layers(model: Functional) -> None:
    """Checks that a file of the model could be opened: classes, structure and size, as they are checked then."""
    try:
        config = json.loads(model.to_json())
        check_structure(config, "model")
        check_classes(config, "model")
        check_fixed(model, "model")
        check_size(config, sum(v.value.numel() * v.value.element_size() for v in model.variables), "model")
    except ArtifactError as error:
        raise UsageError(f"{error}; its file could not be opened{_instead(model)}") from None
    except Exception as error:  # a class of the user's own may raise anything when it is described or rebuilt
        reason = printable(first_line(error))
        raise UsageError(f"model: its file could not be opened: {reason}{_instead(model)}") from error


def _instead(model: Functional) -> str:
    """Returns what to do about the first operation that no model file may hold, or an empty string."""
    for operation in _operations(model):
        kind, module = type(operation).__name__, type(operation).__module__
        if isinstance(operation, keras.Layer) and (kind in LAYERS and module.startswith("keras.src.")):
            continue
        what = f"; {printable(operation.name)[:_MOST_NAME]} is"
        if kind == "Lambda":
            return f"{what} a Lambda: use layers without code, such as Rescaling, Activation or Multiply"
        if not isinstance(operation, keras.Layer):
            return f"{what} an operation of keras.ops: use a layer, such as Add, Multiply, Activation or Reshape"
        if not module.startswith("keras.src."):
            return f"{what} a class of your own: build it of the layers that docs/guides/own_model.md lists"
        return f"{what} of the class {kind}: use the layers that docs/guides/own_model.md lists"
    return ""


def _operations(model: Functional) -> Iterator[keras.Operation]:
    """Yields the layers and other operations of a model and of the models in it."""
    for operation in model.operations:
        if isinstance(operation, Functional):
            yield from _operations(operation)
        elif isinstance(operation, keras.Sequential):
            yield from operation.layers
        else:
            yield operation


def _check_logits(model: Functional) -> None:
    output = model.outputs[0]
    last = output._keras_history.operation
    activation = getattr(getattr(last, "activation", None), "__name__", "")
    if isinstance(last, keras.layers.Softmax) or activation in _NOT_LOGITS:
        raise UsageError(
            f"model: its last layer {printable(last.name)} gives probabilities, allowed: logits (no softmax)"
        )
    if output.dtype != "float32":
        raise UsageError(f"model: gives logits in {output.dtype}; build its last layer with dtype='float32'")


def _check_gradients(model: Functional) -> None:
    """Checks that all trainable weights receive a gradient, on one image and without changing the model."""
    weights = model.trainable_variables
    if not weights:
        raise UsageError("model: has no trainable weights")
    device = weights[0].value.device
    image = torch.full((1, *model.input_shape[1:]), 128.0, device=device)
    try:
        with device_scope(device.type), torch.enable_grad():  # otherwise Keras would put the image on a GPU
            logits = model(image, training=False)
            found = torch.autograd.grad(logits.square().sum(), [w.value for w in weights], allow_unused=True)
    except Exception as error:  # the layers may raise anything
        raise UsageError(f"model: cannot be run: {printable(first_line(error))}") from error
    for weight, gradient in zip(weights, found, strict=True):
        if gradient is None:
            raise UsageError(f"model: its weight {printable(weight.path)} gets no gradient")
