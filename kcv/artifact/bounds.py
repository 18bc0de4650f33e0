"""How much a model file may ask for, found out before it gets it."""

from __future__ import annotations

import math
import zipfile
from typing import Any

import h5py

from kcv.errors import ArtifactError

WEIGHTS_MEMBER = "model.weights.h5"
_MEMBERS = frozenset({"metadata.json", "config.json", WEIGHTS_MEMBER, "kcv.json"})
_MOST_BYTES = 16 * 2**30
_MOST_RATIO = 200  # of a member's size over what it takes in the archive; weights hardly compress
_SLACK = 2**20  # bytes; what Keras keeps beside the weights
_MOST_ELEMENTS = 2**31
"""Numbers that a layer may give for a single picture: 8 GiB. VGG's first layer gives half of them at 4096 px."""


def check_archive(archive: zipfile.ZipFile, origin: str) -> int:
    """Checks what is in a model file, and what its weights are made of; reads no weight.

    Args:
        archive: the open file.
        origin: its name, for the message.

    Returns:
        The bytes of all weights.

    Raises:
        ArtifactError: a member that has no business there or comes twice, one that unpacks to far more than it is, or
            weights that are in other files or not stored at all.
    """
    names = archive.namelist()
    for member in archive.infolist():
        name = member.filename
        if name not in _MEMBERS and not (name.startswith("assets/") and ".." not in name.split("/")):
            raise ArtifactError(f"{origin}: holds {name!r}, which no model file has")
        if names.count(name) > 1:
            raise ArtifactError(f"{origin}: holds {name} twice")
        if member.file_size > min(_MOST_BYTES, _SLACK + _MOST_RATIO * member.compress_size):
            raise ArtifactError(f"{origin}: its {name} would unpack to {member.file_size:,} bytes")
    if WEIGHTS_MEMBER not in names:
        raise ArtifactError(f"{origin}: has no {WEIGHTS_MEMBER}: it is not a Keras model")
    try:
        with archive.open(WEIGHTS_MEMBER) as stream, h5py.File(stream, "r") as weights:
            return check_weights(weights, origin)
    except ArtifactError:
        raise
    except Exception as error:  # h5py raises OSError, RuntimeError, KeyError, ValueError ... as the damage has it
        reason = " ".join(str(error).split())[:150] or type(error).__name__
        raise ArtifactError(f"{origin}: its weights cannot be read ({reason})") from None


def check_weights(weights: h5py.File, origin: str) -> int:
    """Checks that everything in an HDF5 file is in it, and as large as it says.

    Returns:
        The bytes of all datasets.

    Raises:
        ArtifactError: a link, or a dataset that is kept elsewhere or is not stored in full.
    """
    total = 0
    pending: list[tuple[str, h5py.Group]] = [("", weights)]
    seen = set()
    while pending:
        path, group = pending.pop()
        for name in group:
            where = f"{path}/{name}"
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ArtifactError(f"{origin}: its weights hold a link, {where!r}")
            item = group[name]
            if item.id.__hash__() in seen:
                raise ArtifactError(f"{origin}: its weights hold {where!r} twice")
            seen.add(item.id.__hash__())
            if isinstance(item, h5py.Group):
                pending.append((where, item))
            elif isinstance(item, h5py.Dataset):
                if item.external or item.is_virtual:
                    raise ArtifactError(f"{origin}: keeps the weights {where!r} in another file")
                if item.dtype.kind != "O" and item.nbytes > _SLACK + _MOST_RATIO * item.id.get_storage_size():
                    raise ArtifactError(f"{origin}: its weights {where!r} would unpack to {item.nbytes:,} bytes")
                total += item.nbytes
    return total


def check_size(config: dict[str, Any], stored: int, origin: str) -> None:
    """Builds a model without memory and compares what it wants with what its file has.

    Args:
        config: the file's `config.json`, whose classes have been checked.
        stored: bytes of its weights.
        origin: the file's name, for the message.

    Raises:
        ArtifactError: it has more parameters than the file, or gives tensors that no machine holds.
    """
    import keras

    with keras.device("meta"):
        model = keras.saving.deserialize_keras_object(config, safe_mode=True)
    wanted = sum(variable.value.numel() * variable.value.element_size() for variable in model.variables)
    if wanted > stored + _SLACK:
        raise ArtifactError(f"{origin}: wants {wanted:,} bytes of weights, of which the file has {stored:,}")
    for layer in model._flatten_layers(include_self=False):
        for shape in (getattr(node.outputs[0], "shape", ()) for node in getattr(layer, "_inbound_nodes", ())):
            elements = math.prod(size or 1 for size in shape)
            if elements > _MOST_ELEMENTS:
                raise ArtifactError(f"{origin}: its layer {layer.name} gives {elements:,} numbers for one picture")
