"""Pickles of plain values, read without `pickle`: nothing is looked up or called that a file names.

Python's own reader calls what a file names, and so does numpy's: an array of objects is made of pointers in the file.
This one knows the operations that dicts, lists, texts, whole numbers and arrays of uint8 are written with (protocols 0
to 5, of Python 2 as well; `operations`) and refuses all others. What a file names is one of a few marks; what
they stand for is done here. An array is bytes with a shape, never more. Nothing looks into a value deeper than one
level: a few bytes can stand for a tuple that is nested without end, and to hash, compare or print it would take for
ever.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kcv.common.pickles.machine import Machine
from kcv.common.pickles.operations import OPERATIONS, Forbidden, Refused

MOST_OPERATIONS: Final = 200_000
"""Of a pickle; a batch of CIFAR-10 has 30,000 to 60,000."""

_LARGE: Final = 2**16
"""Bytes in a piece that are not copied."""


@dataclass(frozen=True)
class _Named:
    """What a pickle says by name: one of `_NAMES`."""

    does: str


@dataclass(eq=False)
class _Array:
    """An array of uint8 in the making.

    Attributes:
        shape: of it; None before its state was read.
        content: its bytes, row by row.
    """

    shape: tuple[int, ...] | None = None
    content: bytes | memoryview = b""


class _Dtype:
    """Stands for uint8, the only type of numbers that is read."""


_NAMES: Final = {
    "_codecs encode": _Named("encode"),  # how Python 3 writes bytes in the protocols of Python 2
    "__builtin__ bytes": _Named("empty"),  # and no bytes at all
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
        content: the whole of it.

    Returns:
        None, a bool, an int of at most 128 bits, a str, bytes (also for the texts of Python 2; a view of `content`
        where they are 64 KiB or more), a list, a tuple, a dict whose keys are texts, or an array of uint8. Lists,
        tuples and dicts may hold whatever is listed here, arrays excepted where they are not values of the outermost
        dict; they may hold themselves.

    Raises:
        Refused: it holds something else.
        ValueError: it is damaged.
        LookupError: it is damaged.

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
    """Makes plain values and arrays of one pickle."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content, OPERATIONS, MOST_OPERATIONS)
        self._spare = len(content)  # bytes that may be made from texts: one text can be named again and again

    def piece(self, count: int) -> bytes | memoryview:
        """Returns the next bytes, for a value: no copy of what is large, such as all images of a batch."""
        if count < _LARGE:
            return self.take(count)
        start, self.at = self.at, self.at + count
        if self.at > self.end:
            raise Refused("it ends too early")
        return memoryview(self.content)[start : self.at]

    def named(self, module: str, name: str) -> None:
        """Puts what a name stands for on the stack."""
        known = _NAMES.get(f"{module} {name}")
        if known is None:
            raise Forbidden(f"{module[:50]}.{name[:50]} is not allowed")
        self.stack.append(known)

    def call(self) -> None:
        """Does what stands under a name."""
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
        """Gives an array its content; what more is said of uint8 says nothing new."""
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
