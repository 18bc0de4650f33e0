"""Reads state dicts, the tensors of a network by name, from the files of PyTorch and of training programs."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kcv.common import untrusted
from kcv.errors import KcvError, WeightsError, first_line
from kcv.models.weights import checkpoint

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "module")
"""Keys under which training programs store the state dict in a checkpoint."""
_MOST_WRAPPERS = 3

_COMPILED = "_orig_mod."
"""The prefix that torch.compile adds to the names in a compiled module."""
_PREFIXES = ("module.", "model.", "net.", "backbone.")
"""Prefixes that wrappers (DistributedDataParallel, Lightning and others) add to all names."""

_SHARED = 2
"""The average number of tensors that may share a number of the file; PyTorch's own networks share none."""
_SLACK = 2**20
_MOST_HEADER = 16 * 2**20
"""The most bytes of a safetensors header; that of a network of a thousand layers has 0.2 MB."""


def read(path: Path) -> dict[str, Tensor]:
    """Returns the state dict in a file, without the wrappers around it.

    Args:
        path: a `.pth` or `.pt` file that contains only tensors, or a `.safetensors` file.

    Returns:
        Tensors by their names in the network itself. Their total size is at most about twice the size of their data in
        the file.

    Raises:
        WeightsError: the file is damaged, contains code, or contains no state dict.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            _check_header(path)
            content: Any = load_file(path)
        else:
            checkpoint.check(path)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about deprecated kinds of tensors, which are rejected below
                content = torch.load(path, map_location="cpu", weights_only=True)
    except KcvError:
        raise
    except MemoryError:
        raise WeightsError(f"{path}: needs more memory than there is.") from None
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error) or "Weights only" in str(error):
            raise checkpoint.more_than_tensors(path) from None
        raise WeightsError(f"{path}: is not a file of PyTorch weights, or is damaged.") from None
    except Exception as error:  # the error depends on whether the archive, the pickle or a tensor is damaged
        reason = first_line(error)  # sometimes a bare number
        told = f" ({reason})" if " " in reason else ""
        raise WeightsError(f"{path}: is not a file of PyTorch weights, or is damaged{told}.") from None
    for _ in range(_MOST_WRAPPERS):
        if isinstance(content, Mapping):
            content = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), content)
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: holds a {type(content).__name__}, not a state dict.")
    tensors = _plainly_named({str(name): tensor for name, tensor in content.items() if isinstance(tensor, Tensor)})
    _check_size(path, tensors.values())
    return tensors


def _check_header(path: Path) -> None:
    """Checks the size of the header; safetensors itself checks the sizes of the tensors."""
    with untrusted.opened(path, WeightsError) as stream:
        size = int.from_bytes(stream.read(8), "little")
        if size > min(_MOST_HEADER, os.fstat(stream.fileno()).st_size):
            raise WeightsError(
                f"{path}: is not a file of PyTorch weights, or is damaged: its header has {size:,} bytes."
            )


def _plainly_named(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Removes the prefixes of wrappers from the names of a network's tensors."""
    named = {name.replace(_COMPILED, "").removeprefix("module."): tensor for name, tensor in tensors.items()}
    while named:
        prefix = next((prefix for prefix in _PREFIXES if all(name.startswith(prefix) for name in named)), None)
        if prefix is None:
            break
        named = {name.removeprefix(prefix): tensor for name, tensor in named.items()}
    return named


def _check_size(path: Path, tensors: Iterable[Tensor]) -> None:
    """Checks the size of tensors against the data in the file: one stored number can be declared as a billion.

    Raises:
        WeightsError: the tensors are too large.
    """
    storages: dict[int, int] = {}
    total = 0
    for tensor in tensors:
        if tensor.layout is torch.strided and not tensor.is_meta:
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
            total += tensor.numel() * tensor.element_size()
    if total > _SLACK + _SHARED * sum(storages.values()):
        raise WeightsError(f"{path}: its tensors would have {total:,} bytes, of which it holds far less.")
