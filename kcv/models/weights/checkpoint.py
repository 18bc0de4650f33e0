"""What a file of PyTorch's is made of, looked at before PyTorch opens it.

PyTorch's reader runs no code (`weights_only`), but it unpacks what is packed to any size, reserves what a storage is
said to have, and hashes keys that are nested without end. Here the pickle of a file is walked through without making
anything of it, and what it says of its storages is compared with the bytes that are there.
"""

from __future__ import annotations

import mmap
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from kcv.common import untrusted
from kcv.common.pickles.machine import Machine
from kcv.common.pickles.operations import CHECKPOINT_OPERATIONS, Forbidden, Refused
from kcv.errors import WeightsError

_DAMAGED: Final = "is not a file of PyTorch weights, or is damaged"
_MOST_OPERATIONS: Final = 400_000
"""Of a pickle; ResNet-50's state dict has 9,000, and that of its optimizer as many again."""
_MOST_PICKLE: Final = 64 * 2**20
"""Bytes of a pickle that lies beside its tensors."""
_MOST_RATIO: Final = 10
"""Of what an archive unpacks to over what it has; PyTorch packs nothing, and weights hardly get smaller."""
_SLACK: Final = 16 * 2**20
_MAGIC: Final = 0x1950A86A20F9469CFC6C
"""What PyTorch's files before 1.6 begin with."""

_ELEMENTS: Final = {
    "Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1, "Bool": 1,
    "ComplexFloat": 8, "ComplexDouble": 16, "QInt8": 1, "QUInt8": 1, "QInt32": 4, "QUInt4x2": 1, "QUInt2x4": 1,
    "Untyped": 1,
}  # fmt: skip
"""Bytes of a number in a storage, by its kind."""

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
"""What is called in the files of training programs, and takes no memory of its own."""


@dataclass(frozen=True)
class _Name:
    """Something that a file names; what it is, PyTorch decides."""

    module: str
    name: str


class _Made:
    """Stands for whatever a call makes. It can be no key, and nothing can be put into it."""


class _Checkpoint(Machine):
    """Walks through a pickle of PyTorch's.

    Args:
        content: what holds it.
        start: where it begins.
        note: is told of each storage: its key and its bytes.
    """

    keys = (str, bytes, int, float, bool, type(None))

    def __init__(self, content: Any, start: int, note: Callable[[str | bytes, int], None]) -> None:
        super().__init__(content, CHECKPOINT_OPERATIONS, _MOST_OPERATIONS, start)
        self._note = note
        self._spare = len(content)  # bytes that may be made from texts

    def named(self, module: str, name: str) -> None:
        """Puts a name on the stack."""
        self.stack.append(_Name(module, name))

    def call(self) -> None:
        """Puts something in the place of a call; a dict is made, as keys are put into it."""
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
        """As Python 3 makes it, empty; or as Python 2 did, of a list of pairs."""
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
        """Counts the bytes that are made of a text, which can be named again and again; a number would reserve them."""
        given = arguments[0] if arguments else ""
        if type(given) not in (str, bytes, float):
            raise Forbidden("it reserves memory")
        self._spare -= len(given) if isinstance(given, str | bytes) else 0
        if self._spare < 0:
            raise Refused("it unpacks to more than it is")

    def build(self) -> None:
        """Takes the state of something; the keys in it have been looked at."""
        self.stack.pop()

    def persistent(self) -> None:
        """Puts a storage on the stack."""
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
    """Returns the error for a file that PyTorch could only open by running what is in it."""
    return WeightsError(
        f"{path}: holds more than tensors, and is not opened: such a file can run any program. "
        "Save model.state_dict() instead."
    )


def check(path: Path) -> None:
    """Checks that PyTorch may open a file.

    Args:
        path: a `.pth` or `.pt` file of any origin.

    Raises:
        WeightsError: it holds more than tensors, more than its bytes can be, or is damaged.
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
    """Checks a file from before PyTorch 1.6: pickles one after the other, then the storages."""
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
