"""Checks that the weights of a model file are numbers, stored completely in the file, and nothing else."""

from __future__ import annotations

import io
import math

import h5py

from kcv.artifact.archive import MOST_RATIO, SLACK
from kcv.common.text import printable
from kcv.common.untrusted import refusing
from kcv.errors import ArtifactError

_KINDS = "fiubV"
"""Allowed NumPy kinds: numbers, and the two raw bytes as which HDF5 stores bfloat16."""
_FILTERS = frozenset({h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32})
_MOST_OBJECTS = 50_000
_MOST_ATTRIBUTES = 100
_MOST_ATTRIBUTE_BYTES = 64 * 2**10
_MOST_CHUNK_BYTES = 64 * 2**20


def check_weights(content: bytes, stored: int, origin: str) -> int:
    """Checks the HDF5 file in a model file without reading the weights.

    Args:
        content: the HDF5 file.
        stored: size of the whole model file, in bytes. Weights may be compressed twice, in the HDF5 file and in the
            archive, so their unpacked size is compared with this.
        origin: the model file's name, for the message.

    Returns:
        The total size of all weights, in bytes.

    Raises:
        ArtifactError: the file is damaged, or its weights are links, in other files, incomplete, or not numbers.
    """
    with refusing(origin, ArtifactError, "its weights cannot be read"), h5py.File(io.BytesIO(content), "r") as file:
        return check_datasets(file, stored, origin)


def check_datasets(file: h5py.File, stored: int, origin: str) -> int:
    """Checks an open HDF5 file; arguments, result and errors are those of `check_weights`."""
    total = _checked(file, origin)
    if total > SLACK + MOST_RATIO * stored:
        raise ArtifactError(f"{origin}: its weights would unpack to {total:,} bytes, and the file has {stored:,}")
    return total


def _checked(file: h5py.File, origin: str) -> int:
    """Checks the whole file and returns the total size of all datasets, in bytes."""
    total = 0
    pending: list[tuple[str, h5py.Group]] = [("", file)]
    seen = set()
    _check_attributes(file, "/", origin)
    while pending:
        path, group = pending.pop()
        for name in group:
            where = f"{path}/{name}"
            shown = repr(printable(where[-100:]))
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ArtifactError(f"{origin}: its weights hold a link, {shown}")
            item = group[name]
            key = hash(item.id)
            if key in seen:
                raise ArtifactError(f"{origin}: its weights hold {shown} twice")
            seen.add(key)
            if len(seen) > _MOST_OBJECTS:
                raise ArtifactError(f"{origin}: its weights are more than {_MOST_OBJECTS:,} objects")
            _check_attributes(item, shown, origin)
            if isinstance(item, h5py.Group):
                pending.append((where, item))
            elif isinstance(item, h5py.Dataset):
                _check_dataset(item, shown, origin)
                total += item.nbytes
            else:
                raise ArtifactError(f"{origin}: its weights hold {shown}, which is no array")
    return total


def _check_dataset(item: h5py.Dataset, shown: str, origin: str) -> None:
    if item.external or item.is_virtual:
        raise ArtifactError(f"{origin}: keeps the weights {shown} in another file")
    dtype = item.dtype
    if dtype.kind not in _KINDS or dtype.names is not None or dtype.subdtype is not None or dtype.itemsize > 8:
        raise ArtifactError(f"{origin}: its weights {shown} are no numbers")
    if item.shape is None:
        raise ArtifactError(f"{origin}: its weights {shown} are empty")
    if item.nbytes > SLACK + MOST_RATIO * item.id.get_storage_size():
        raise ArtifactError(f"{origin}: its weights {shown} would unpack to {item.nbytes:,} bytes")
    if item.chunks is None:
        return
    # A chunk is unpacked as a whole, and may be larger than its dataset.
    if math.prod(item.chunks) * dtype.itemsize > max(_MOST_CHUNK_BYTES, item.nbytes):
        raise ArtifactError(f"{origin}: its weights {shown} are stored in pieces that are larger than they are")
    properties = item.id.get_create_plist()
    if {properties.get_filter(number)[0] for number in range(properties.get_nfilters())} - _FILTERS:
        raise ArtifactError(f"{origin}: its weights {shown} are packed by a method that model files do not use")


def _check_attributes(item: h5py.File | h5py.Group | h5py.Dataset, shown: str, origin: str) -> None:
    if len(item.attrs) > _MOST_ATTRIBUTES:
        raise ArtifactError(f"{origin}: its weights {shown} have {len(item.attrs):,} attributes")
    for name in item.attrs:
        attribute = item.attrs.get_id(name)
        # h5py cannot return the stored size of an empty attribute, as in a layer without weights.
        if math.prod(attribute.shape) * attribute.dtype.itemsize > _MOST_ATTRIBUTE_BYTES:
            raise ArtifactError(f"{origin}: its weights {shown} have an attribute of more than 64 KB")
