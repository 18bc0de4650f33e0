"""Checks the content of a PyTorch file before PyTorch opens it.

PyTorch's reader runs no code (`weights_only`), but it unpacks compressed data of any size, allocates the declared size
of a storage, and hashes keys of any nesting depth. This module walks through the pickle of a file without creating its
objects, and compares the declared sizes of the storages with the bytes in the file.
"""

from __future__ import annotations

import mmap
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from kcv.common import untrusted
from kcv.common.pickles.machine import CHECKPOINT_OPERATIONS, Forbidden, Machine, Refused
from kcv.errors import WeightsError

_DAMAGED: Final = "is not a file of PyTorch weights, or is damaged"
_MOST_OPERATIONS: Final = 400_000
"""The most operations of a pickle; ResNet-50's state dict has 9,000, and that of its optimizer as many again."""
_MOST_PICKLE: Final = 64 * 2**20
"""The most bytes of a pickle that is stored separately from its tensors."""
_MOST_RATIO: Final = 10
"""The largest ratio of unpacked to packed size; PyTorch does not compress, and weights hardly compress."""
_SLACK: Final = 16 * 2**20
_MAGIC: Final = 0x1950A86A20F9469CFC6C
"""The first value in files from before PyTorch 1.6."""

_ELEMENTS: Final = {
    "Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1, "Bool": 1,
    "ComplexFloat": 8, "ComplexDouble": 16, "QInt8": 1, "QUInt8": 1, "QInt32": 4, "QUInt4x2": 1, "QUInt2x4": 1,
    "Untyped": 1,
}  # fmt: skip
"""Bytes per number in a storage, by storage type."""

_MADE: Final = {
    "torch._utils": (
        "_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_parameter",
        "_rebuild_parameter_with_state", "_rebuild_qtensor", "_rebuild_sparse_tensor",
    ),
    "torch._tensor": ("_rebuild_from_type_v2",),
    "torch.nn.parameter": ("Parameter",),
    "torch.serialization": ("_get_layout",),
    "torch": ("Size", "device"),
}  # fmt: skip
"""Functions that the files of training programs call and that allocate no memory of their own."""


@dataclass(frozen=True)
class _Name:
    """A global name in a file, not resolved."""

    module: str
    name: str


class _Made:
    """Placeholder for the result of a call. It cannot be a key, and nothing can be added to it."""


class _Checkpoint(Machine):
    """Walks through a pickle written by PyTorch.

    Args:
        content: the bytes that contain it.
        start: its offset.
        note: called with the key and the bytes of each storage.
    """

    keys = (str, bytes, int, float, bool, type(None))

    def __init__(self, content: Any, start: int, note: Callable[[str | bytes, int], None]) -> None:
        super().__init__(content, CHECKPOINT_OPERATIONS, _MOST_OPERATIONS, start)
        self._note = note
        self._spare = len(content)  # bytes that may still be created from texts

    def named(self, module: str, name: str) -> None:
        """Pushes a name on the stack."""
        self.stack.append(_Name(module, name))

    def call(self) -> None:
        """Replaces a call on the stack with a placeholder, or with a dict, since keys are added to it later."""
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(function) is not _Name or type(arguments) is not tuple:
            raise Forbidden("it calls something")
        if function.module == "collections" and function.name in ("OrderedDict", "Counter"):
            self._dict(arguments)
        elif (function.module, function.name) == ("_codecs", "encode"):
            self._count(arguments)
            self.stack.append(b"")
        elif function.module in ("builtins", "__builtin__") and function.name in ("set", "complex", "bytearray"):
            if function.name == "set":
                self._check_keys(arguments)
            else:
                self._count(arguments)
            self.stack.append(_Made())
        elif function.name in _MADE.get(function.module, ()):
            self.stack.append(_Made())
        else:
            raise Forbidden(f"it calls {function.module[:50]}.{function.name[:50]}")

    def _dict(self, arguments: tuple[Any, ...]) -> None:
        """Pushes a dict: empty, as Python 3 pickles it, or filled from a list of pairs, as Python 2 did."""
        self.stack.append({})
        pairs: Any = arguments[0] if len(arguments) == 1 else [] if not arguments else None
        if type(pairs) is dict:
            pairs = [[key, value] for key, value in pairs.items()]
        kinds = (list, tuple)
        sound = len(arguments) < 2 and type(pairs) in kinds
        if not sound or not all(type(pair) in kinds and len(pair) == 2 for pair in pairs):
            raise Forbidden("it makes a dict of something else")
        self.update([item for pair in pairs for item in pair])

    def _check_keys(self, arguments: tuple[Any, ...]) -> None:
        items = arguments[0] if arguments else []
        if type(items) not in (list, tuple) or not all(type(item) in self.keys for item in items):
            raise Refused("it has a set of what is no plain value")

    def _count(self, arguments: tuple[Any, ...]) -> None:
        """Counts the bytes made from a text, which can be reused often; rejects an integer, which allocates memory."""
        given = arguments[0] if arguments else ""
        if type(given) not in (str, bytes, float):
            raise Forbidden("it reserves memory")
        self._spare -= len(given) if isinstance(given, str | bytes) else 0
        if self._spare < 0:
            raise Refused("it unpacks to more than it is")

    def build(self) -> None:
        """Drops the state of an object; its keys have already been checked."""
        self.stack.pop()

    def persistent(self) -> None:
        """Pushes a storage on the stack."""
        told = self.stack.pop()
        if type(told) is not tuple or len(told) not in (5, 6) or told[0] not in ("storage", b"storage"):
            raise Forbidden("it names something that is no storage")
        kind, key, count = told[1], told[2], told[4]
        size = _ELEMENTS.get(kind.name.removesuffix("Storage")) if type(kind) is _Name else None
        if size is None or type(key) not in (str, bytes) or type(count) is not int or count < 0:
            raise Forbidden("it has a storage of an unknown kind")
        self._note(key, count * size)
        self.stack.append(_Made())


def more_than_tensors(path: Path) -> WeightsError:
    """Returns the error for a file that PyTorch could open only by running code in it."""
    return WeightsError(
        f"{path}: holds more than tensors, and is not opened: such a file can run any program. "
        "Save model.state_dict() instead."
    )


def check(path: Path) -> None:
    """Checks that PyTorch can open a file safely.

    Args:
        path: a `.pth` or `.pt` file of any origin.

    Raises:
        WeightsError: the file contains more than tensors, would unpack to too much, or is damaged.
    """
    with untrusted.opened(path, WeightsError) as stream, untrusted.refusing(path, WeightsError, _DAMAGED):
        try:
            if stream.read(4) == b"PK\x03\x04":
                _check_archive(stream)
            else:
                _check_pickles(stream)
        except Forbidden:
            raise more_than_tensors(path) from None


def _check_archive(stream: BinaryIO) -> None:
    with zipfile.ZipFile(stream) as archive:
        members = {member.filename: member for member in archive.infolist()}
        if len(members) != len(archive.infolist()):
            raise Refused("a member of it comes twice")
        size, unpacked = stream.seek(0, 2), sum(member.file_size for member in members.values())
        if unpacked > _SLACK + _MOST_RATIO * size:
            raise Refused(f"it would unpack to {unpacked:,} bytes")
        folder = next(iter(members), "").partition("/")[0]
        pickled = members[f"{folder}/data.pkl"]
        if pickled.file_size > _MOST_PICKLE:
            raise Refused(f"its data.pkl is larger than {_MOST_PICKLE:,} bytes")

        def note(key: str | bytes, count: int) -> None:
            member = members.get(f"{folder}/data/{key if isinstance(key, str) else key.decode('ascii')}")
            if member is None or count > member.file_size:
                raise Refused("a storage of it is not there in full")

        _Checkpoint(archive.read(pickled), 0, note).run()


def _check_pickles(stream: BinaryIO) -> None:
    """Checks a file from before PyTorch 1.6: consecutive pickles, then the storages."""
    storages: dict[str | bytes, int] = {}

    def note(key: str | bytes, count: int) -> None:
        storages[key] = max(count, storages.get(key, 0))

    with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        at, values = 0, []
        for _ in ("magic", "protocol", "system", "values", "storages"):
            machine = _Checkpoint(content, at, note)
            values.append(machine.run())
            at = machine.at
            if type(values[0]) is not int or values[0] != _MAGIC:
                raise Refused("it begins with something else")
        if sum(storages.values()) > len(content) - at:
            raise Refused("its storages are not there in full")
