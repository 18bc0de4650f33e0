"""What Keras would import and kcv does not need: more than half of the time and of the modules of `import keras`.

Keras tries to import pandas, scikit-learn, matplotlib and OpenCV for functions that kcv never calls, and does without
those that are not installed. For commands of kcv they are not found while Keras is imported; afterwards they are.

With the torch backend it also imports torch's compiler, for one decorator on two of its functions, which keeps the
compiler out of them; torch itself imports it later for the same decorator. A stand-in for the module has this
decorator, and becomes the module for whoever asks for anything else.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Final

OPTIONAL: Final = frozenset({"pandas", "sklearn", "matplotlib", "cv2"})
"""Packages that Keras tries to import and does not need. Those it needs are named in its own requirements."""

_COMPILER: Final = "torch._dynamo"


@contextmanager
def lean() -> Iterator[None]:
    """Keeps what Keras does not need from being imported in the block.

    `OPTIONAL` are not found, but for those that are already imported. The stand-in stays after the block, because torch
    would import the compiler for the same decorator.
    """
    missing = _Missing(frozenset(name for name in OPTIONAL if name not in sys.modules))
    sys.modules.setdefault(_COMPILER, _Compiler(_COMPILER))
    sys.meta_path.insert(0, missing)
    try:
        yield
    finally:
        sys.meta_path.remove(missing)


class _Missing:
    """A finder to which some packages are not installed."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> None:
        """Leaves all other modules to the other finders.

        Raises:
            ModuleNotFoundError: the module is to be missing.
        """
        if name in self._names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


class _Compiler(ModuleType):
    """Stands in for `torch._dynamo` until somebody needs more of it than its `disable`."""

    def __getattr__(self, name: str) -> Any:
        if name == "disable":
            return _disable
        if name.startswith("__") and name != "__path__":
            raise AttributeError(name)  # what Python asks every module for
        if sys.modules.get(_COMPILER) is self:
            del sys.modules[_COMPILER]
        return getattr(importlib.import_module(_COMPILER), name)


def _disable(fn: Callable[..., Any] | None = None, *values: Any, **options: Any) -> Callable[..., Any]:
    """Keeps the compiler out of a function, as `torch._dynamo.disable` does; without one, returns the decorator."""
    if fn is None:
        return lambda fn: _disable(fn, *values, **options)

    @functools.wraps(fn)
    def disabled(*arguments: Any, **named: Any) -> Any:
        compiler = sys.modules.get(_COMPILER)
        if compiler is None or isinstance(compiler, _Compiler):
            return fn(*arguments, **named)  # nothing has been compiled in this process
        return compiler.disable(fn, *values, **options)(*arguments, **named)

    disabled._torchdynamo_disable = True  # type: ignore[attr-defined]  # the compiler's own mark
    return disabled
