"""Reads pickles of plain values without `pickle`: no name in a file is looked up or called.

Python's own reader calls the functions that a file names, and so does NumPy's: an array of objects is made of pointers
in the file. This reader supports the operations of dicts, lists, texts, integers and uint8 arrays (protocols 0 to 5,
also of Python 2; see `machine`) and rejects all others. Only a few names are accepted, and their effect is
implemented here. An array is only ever bytes with a shape. No code looks into a value deeper than one level: a few
bytes can encode a tuple of enormous nesting, and hashing, comparing or printing it would take forever.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kcv.common.pickles.machine import OPERATIONS, Forbidden, Machine, Refused

MOST_OPERATIONS: Final = 200_000
"""The most operations of a pickle; a batch of CIFAR-10 has 30,000 to 60,000."""

_LARGE: Final = 2**16
"""Pieces of at least this many bytes are not copied."""


@dataclass(frozen=True)
class _Named:
    """A name in a pickle: one of `_NAMES`."""

    does: str


@dataclass(eq=False)
class _Array:
    """An unfinished uint8 array.

    Attributes:
        shape: its shape; None until its state has been read.
        content: its bytes in row-major order.
    """

    shape: tuple[int, ...] | None = None
    content: bytes | memoryview = b""


class _Dtype:
    """Represents uint8, the only supported dtype."""


_NAMES: Final = {
    "_codecs encode": _Named("encode"),  # bytes, as Python 3 writes them in the protocols of Python 2
    "__builtin__ bytes": _Named("empty"),  # empty bytes
    "builtins bytes": _Named("empty"),
    "numpy ndarray": _Named("ndarray"),
    "numpy dtype": _Named("dtype"),
    "numpy.core.multiarray _reconstruct": _Named("array"),
    "numpy._core.multiarray _reconstruct": _Named("array"),
    "numpy.core.numeric _frombuffer": _Named("filled"),
    "numpy._core.numeric _frombuffer": _Named("filled"),
}


def loads(content: bytes) -> Any:
    """Reads a pickle.

    Args:
        content: the whole pickle.

    Returns:
        None, a bool, an int of at most 128 bits, a str, bytes (also for Python 2 strings; a view of `content` if they
        have 64 KiB or more), a list, a tuple, a dict with text keys, or a uint8 array. Lists, tuples and dicts may
        contain any of these, and themselves; an array is returned only as a value of the outermost dict.

    Raises:
        Refused: the pickle contains something else.
        ValueError: the pickle is damaged.
        LookupError: the pickle is damaged.

    Example:
        >>> loads(pickle.dumps({"labels": [1, 2]}))
        {'labels': [1, 2]}
    """
    value = _Plain(content).run()
    if type(value) is dict:
        return {key: _made(entry) if type(entry) is _Array else entry for key, entry in value.items()}
    return value


def _made(array: _Array) -> NDArray[np.uint8]:
    if array.shape is None:
        raise Refused("an array without content")
    return np.frombuffer(array.content, np.uint8).reshape(array.shape)


class _Plain(Machine):
    """Reads plain values and arrays from one pickle."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content, OPERATIONS, MOST_OPERATIONS)
        self._spare = len(content)  # bytes that may still be made from texts, since one text can be reused often

    def piece(self, count: int) -> bytes | memoryview:
        """Returns the next bytes, to be used as a value, without copying large ones such as all images of a batch."""
        if count < _LARGE:
            return self.take(count)
        start, self.at = self.at, self.at + count
        if self.at > self.end:
            raise Refused("it ends too early")
        return memoryview(self.content)[start : self.at]

    def named(self, module: str, name: str) -> None:
        """Pushes the meaning of a name on the stack."""
        known = _NAMES.get(f"{module} {name}")
        if known is None:
            raise Forbidden(f"{module[:50]}.{name[:50]} is not allowed")
        self.stack.append(known)

    def call(self) -> None:
        """Executes the call of a name."""
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(function) is not _Named or type(arguments) is not tuple:
            raise Refused("it calls something")
        kinds = tuple(type(argument) for argument in arguments)
        match function.does, kinds:
            case "encode", (k, _) if k is str and arguments[1] in ("latin1", b"latin1"):
                self._spare -= len(arguments[0])
                if self._spare < 0:
                    raise Refused("it unpacks to more than it is")
                self.stack.append(arguments[0].encode("latin1"))
            case "empty", ():
                self.stack.append(b"")
            case "array", (_, _, _) if arguments[0] is _NAMES["numpy ndarray"]:
                self.stack.append(_Array())
            case "dtype", (k, *_) if k in (str, bytes) and arguments[0] in ("u1", b"u1", "|u1", b"|u1"):
                self.stack.append(_Dtype())
            case "dtype", _:
                raise Refused("it holds an array that is not of uint8")
            case "filled", (_, _, _, k) if k is str and arguments[3] == "C":
                self.stack.append(array := _Array())
                _fill(array, arguments[2], arguments[1], arguments[0])
            case _:
                raise Refused("it makes an array of another kind")

    def build(self) -> None:
        """Sets the shape and content of an array; ignores the state of a dtype, which adds nothing to uint8."""
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) is _Dtype:
            return
        if type(target) is not _Array or type(state) is not tuple or len(state) != 5 or state[3] is not False:
            raise Refused("it gives something a state that is no plain array")
        _fill(target, state[1], state[2], state[4])


def _fill(array: _Array, shape: Any, dtype: Any, content: Any) -> None:
    sound = type(dtype) is _Dtype and type(content) in (bytes, memoryview) and type(shape) is tuple and len(shape) <= 8
    sound = sound and all(type(size) is int and 0 <= size <= len(content) for size in shape)
    if not sound or math.prod(shape) != len(content):
        raise Refused("it holds an array whose content is not what it says")
    array.shape, array.content = shape, content
