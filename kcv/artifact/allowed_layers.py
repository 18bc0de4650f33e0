"""Checks the classes in a model file's JSON before Keras creates any object from it.

A `.keras` file names classes, and deserialising it constructs them. kcv only opens files of standard Keras layers;
anything that could contain code (Lambda, functions, foreign modules) is rejected with its name.
"""

from __future__ import annotations

from typing import Any

from kcv.artifact.structure import nodes
from kcv.common.text import printable
from kcv.errors import ArtifactError

LAYERS = frozenset(
    [
        "Activation",
        "Add",
        "Average",
        "AveragePooling2D",
        "BatchNormalization",
        "CenterCrop",
        "Concatenate",
        "Conv2D",
        "Conv2DTranspose",
        "Cropping2D",
        "Dense",
        "DepthwiseConv2D",
        "Dropout",
        "ELU",
        "Flatten",
        "GaussianDropout",
        "GaussianNoise",
        "GlobalAveragePooling2D",
        "GlobalMaxPooling2D",
        "GroupNormalization",
        "Identity",
        "InputLayer",
        "LayerNormalization",
        "LeakyReLU",
        "MaxPooling2D",
        "Maximum",
        "Minimum",
        "Multiply",
        "Normalization",
        "PReLU",
        "Permute",
        "RMSNormalization",
        "ReLU",
        "Rescaling",
        "Reshape",
        "SeparableConv2D",
        "Softmax",
        "SpatialDropout2D",
        "Subtract",
        "UnitNormalization",
        "UpSampling2D",
        "ZeroPadding2D",
    ]
)
"""Classes of `keras.layers` that image classifiers use and that cannot contain code."""

_MODELS = ("Functional", "Sequential", "Model")
_MODEL_MODULES = frozenset({"keras", "keras.models", "keras.src.models.functional", "keras.src.models.sequential"})
_HARMLESS_MODULES = frozenset({"keras.initializers", "keras.regularizers", "keras.constraints"})
_POLICIES = frozenset({"DTypePolicy", "FloatDTypePolicy"})
_VALUES = frozenset({"__keras_tensor__", "__tuple__", "__numpy__", "__tensor__", "__slice__"})
"""Class names that Keras writes for plain values; they construct numbers, not objects."""


def check_classes(config: Any, origin: str) -> None:
    """Checks every class that a model's `config.json` names.

    Args:
        config: the parsed JSON.
        origin: the file's name, for the message.

    Raises:
        ArtifactError: a class is not allowed; the message names the first one.
    """
    for node in nodes(config):
        if "class_name" in node and not _is_allowed(node):
            module, name = (_shown(node.get(key)) for key in ("module", "class_name"))
            where = module or "an unnamed module"
            raise ArtifactError(f"{origin}: holds {name} from {where}, which kcv does not open: only Keras' own layers")


def check_top(config: dict[str, Any], origin: str) -> None:
    """Checks that a file contains a model, and not just a layer or another part of one.

    Raises:
        ArtifactError: it contains something else.
    """
    if config.get("class_name") not in _MODELS:
        raise ArtifactError(f"{origin}: holds {_shown(config.get('class_name')) or 'nothing'}, which is no model")


def _shown(value: Any) -> str:
    """Returns a name from a file, safe to show in a message."""
    return printable(str(value)[:60]) if value else ""


def _is_allowed(node: dict[str, Any]) -> bool:
    name, module = node["class_name"], node.get("module")
    registered = node.get("registered_name")
    if not isinstance(name, str) or not isinstance(module, str | None) or registered not in (None, name):
        return False
    if name in _VALUES:
        return module is None
    if module == "keras.layers":
        return name in LAYERS
    if name in _MODELS:
        return module in _MODEL_MODULES
    if name in _POLICIES:
        return module == "keras"
    return module in _HARMLESS_MODULES
