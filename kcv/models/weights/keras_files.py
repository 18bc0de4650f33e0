"""Reads weights from Keras files: kcv's own models, and networks of keras.applications."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import keras

from kcv import artifact
from kcv.artifact.weights import check_datasets
from kcv.common import untrusted
from kcv.common.text import shortened
from kcv.errors import ArtifactError, WeightsError, first_line
from kcv.inference import opening
from kcv.models.inputs import Normalisation
from kcv.models.network import Arrays, KerasFile, Network
from kcv.models.pretrained import Pretrained

_MOST_RATIO = 4
"""The largest ratio of a tensor's size to its stored size; Keras does not compress, and weights hardly compress."""
_SLACK = 2**16


def read(path: Path, network: Network) -> Pretrained:
    """Reads a model file of kcv, or a weight file of a network of keras.applications.

    Args:
        path: a `.keras` or `.weights.h5` file, or an `.h5` file as downloaded by keras.applications.
        network: the network that the weights are for.

    Raises:
        WeightsError: the file is damaged or belongs to another network.
        ArtifactError: a `.keras` file is damaged, or contains classes that are not Keras' own.
    """
    if path.suffix == ".keras":
        return _own(path, network) if artifact.is_described(path) else _foreign(path, network)
    return _application(path, network)


def _own(path: Path, network: Network) -> Pretrained:
    name = network.name
    info = artifact.read_info(path)
    if info.model_name != name:
        raise WeightsError(f"{path}: holds a {info.model_name}, not a {name}.")
    if info.variant not in (network.variants or (None,)):
        raise WeightsError(f"{path}: holds {name} in a variant that this kcv does not know, {info.variant!r}.")
    model = opening.load(path, device="cpu").keras_model
    normalise = next((layer for layer in model.layers if layer.name == "normalise"), None)
    if normalise is None:
        raise WeightsError(f"{path}: has no layer normalise: it does not hold a {name} of kcv's.")
    return Pretrained(
        str(path),
        info.variant,
        _layers(model),
        Normalisation.from_tensors(normalise.mean, normalise.variance),
        info.class_names,
    )


def _foreign(path: Path, network: Network) -> Pretrained:
    """Reads a `.keras` file of another program: a network of keras.applications, alone or nested in a model."""
    application = _application_of(network, path)
    try:
        model = opening.load_keras(path, device="cpu")
    except ArtifactError as error:
        raise WeightsError(str(error)) from error
    names = {layer.name for layer in model.layers}
    if {"normalise", "channels_first"} <= names:
        raise WeightsError(
            f"{path}: is a model of kcv's that another program saved again, without its description; "
            "use the file that kcv wrote."
        )
    rescaled = any(isinstance(layer, keras.layers.Rescaling | keras.layers.Normalization) for layer in _flat(model))
    if rescaled and not application.rescales:
        raise WeightsError(
            f"{path}: rescales its pixels before the network, which Keras' {network.name} does not; "
            "save the network alone."
        )
    return _converted(path, application, model)


def _application(path: Path, network: Network) -> Pretrained:
    """Reads weights of a network of keras.applications by loading them into it, with or without its classifier."""
    application = _application_of(network, path)
    classes = _classes_of(path, network.features, application.classifier_rank)
    attempts: list[dict[str, Any]] = [{"include_top": True, "classes": classes}] if classes else []
    reason = ""
    for arguments in [*attempts, {"include_top": False}]:
        model = application.make(weights=None, **arguments)
        try:
            model.load_weights(path)
        # Keras raises different errors depending on the damage (KeyError, OSError, ValueError ...).
        except Exception as error:
            reason = first_line(error)
            continue
        return _converted(path, application, model)
    raise WeightsError(f"{path}: does not hold Keras' {network.name}, or is damaged ({reason}).")


def _application_of(network: Network, path: Path) -> KerasFile:
    if network.keras_file is None:
        raise WeightsError(f"{path}: was not written by kcv, and keras.applications has no {network.name}.")
    return network.keras_file


def _classes_of(path: Path, features: int, rank: int) -> int | None:
    """Returns the number of classes of the classifier in an HDF5 file, or None if there is no classifier.

    The classifier is the kernel of this rank that takes this number of features.

    Layers are created with the declared shapes, so the file is first checked to contain the declared data.

    Raises:
        WeightsError: the file is not HDF5, or contains links, data other than numbers, or less data than declared.
    """
    widths: list[int] = []

    def visit(name: str, item: Any) -> None:
        if not isinstance(item, h5py.Dataset):
            return
        if item.dtype.kind not in "fiub":
            raise WeightsError(f"{path}: its {name[:100]!r} holds {shortened(item.dtype)}, not numbers.")
        if item.nbytes > _SLACK + _MOST_RATIO * item.id.get_storage_size():
            raise WeightsError(f"{path}: its {name[:100]!r} would unpack to {item.nbytes:,} bytes.")
        if item.ndim == rank and item.shape[-2] == features:
            widths.append(int(item.shape[-1]))

    damaged = "is not a file of Keras weights, or is damaged"
    with untrusted.opened(path, WeightsError) as stream, untrusted.refusing(path, WeightsError, damaged):
        try:
            with h5py.File(stream, "r") as file:
                check_datasets(file, os.fstat(stream.fileno()).st_size, str(path))
                file.visititems(visit)
        except ArtifactError as error:
            raise WeightsError(str(error)) from None
    return widths[0] if widths else None


def _converted(path: Path, application: KerasFile, model: keras.Model) -> Pretrained:
    """Converts weights from the conventions of keras.applications to those of kcv's graphs."""
    layers = _layers(model)
    normalisation = application.convert(layers, list(_flat(model)))
    return Pretrained(str(path), application.variant, layers, normalisation)


def _flat(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """Yields the layers of a model and of its nested models."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _flat(layer)
        else:
            yield layer


def _layers(model: keras.Model) -> dict[str, Arrays]:
    return {layer.name: layer.get_weights() for layer in _flat(model) if layer.weights}
