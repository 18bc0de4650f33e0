"""State dicts: the tensors of a network by name, as PyTorch and the programs around it keep them in files."""

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
"""Under which names training programs keep the state dict in a checkpoint."""
_MOST_WRAPPERS = 3

_COMPILED = "_orig_mod."
"""What torch.compile puts before the names of what is in a compiled module."""
_PREFIXES = ("module.", "model.", "net.", "backbone.")
"""What wrappers (several processes, Lightning and the like) put before all names."""

_SHARED = 2
"""How often each number of a file may be part of a tensor, on average; PyTorch's own networks share none."""
_SLACK = 2**20
_MOST_HEADER = 16 * 2**20
"""Bytes of a header of safetensors; that of a network of a thousand layers has 0.2 MB."""


def read(path: Path) -> dict[str, Tensor]:
    """Returns the state dict in a file, whatever it is wrapped in.

    Args:
        path: a `.pth` or `.pt` file of tensors and nothing else, or `.safetensors`.

    Returns:
        Tensors by the names that the network itself has for them; together no larger than what the file holds of them,
        up to a factor of two.

    Raises:
        WeightsError: the file is damaged, holds code, or holds no state dict.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            _check_header(path)
            content: Any = load_file(path)
        else:
            checkpoint.check(path)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of kinds of tensors that are going out of use; they are refused below
                content = torch.load(path, map_location="cpu", weights_only=True)
    except KcvError:
        raise
    except MemoryError:
        raise WeightsError(f"{path}: needs more memory than there is.") from None
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error) or "Weights only" in str(error):
            raise checkpoint.more_than_tensors(path) from None
        raise WeightsError(f"{path}: is not a file of PyTorch weights, or is damaged.") from None
    except Exception as error:  # damage hits the archive, the pickle or a tensor, and each raises something else
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
    """Checks what comes before the tensors; that these are as large as they are said to be, safetensors checks."""
    with untrusted.opened(path, WeightsError) as stream:
        size = int.from_bytes(stream.read(8), "little")
        if size > min(_MOST_HEADER, os.fstat(stream.fileno()).st_size):
            raise WeightsError(
                f"{path}: is not a file of PyTorch weights, or is damaged: its header has {size:,} bytes."
            )


def _plainly_named(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Takes away what wrappers put before the names of a network's tensors."""
    named = {name.replace(_COMPILED, "").removeprefix("module."): tensor for name, tensor in tensors.items()}
    while named:
        prefix = next((prefix for prefix in _PREFIXES if all(name.startswith(prefix) for name in named)), None)
        if prefix is None:
            break
        named = {name.removeprefix(prefix): tensor for name, tensor in named.items()}
    return named


def _check_size(path: Path, tensors: Iterable[Tensor]) -> None:
    """Checks that tensors are as large as what the file holds: one number can be said to be a billion of them.

    Raises:
        WeightsError: they are larger.
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
