"""Loads the function that `model.name` names, and calls it for the user's own model.

It is the only place in kcv where a name becomes code. A name is followed only if the user typed it, or if a signature
shows that this user began the run that holds it (`kcv.training.resume.consent`).
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import sys
import traceback
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import keras

from kcv.artifact.info import ModelSource
from kcv.common.files import expand_user
from kcv.common.text import printable, shortened
from kcv.common.untrusted import read_bytes
from kcv.errors import ConfigError, UsageError, first_line, nearest
from kcv.models.own import OwnName
from kcv.training.own_model import check_model

_MOST_BYTES: Final = 16 * 2**20
_SHOWN: Final = 100  # characters of a signature


@dataclass(frozen=True)
class OwnFunction:
    """A function that returns a model of the user's own.

    Attributes:
        name: where it comes from, as the user typed it.
        sha256: SHA-256 (hex) of the file that it is in.
        file: that file.
        function: the function.
    """

    name: OwnName
    sha256: str
    file: Path
    function: Callable[..., Any]

    @property
    def source(self) -> ModelSource:
        """What a model file says about the origin of its model."""
        return ModelSource(name=str(self.name), sha256=self.sha256)

    def build(self, image_size: int, num_classes: int, policy: str) -> keras.Model:
        """Calls the function, under Keras' current dtype policy and device, and checks the model that it returns.

        Args:
            image_size: side of the images, in pixels.
            num_classes: number of logits.
            policy: the current dtype policy.

        Raises:
            UsageError: the function cannot be called so or raises an error, or kcv cannot use what it returns.
            ConfigError: the model takes images of another size.
        """
        given = {"image_size": image_size, "num_classes": num_classes}
        _check_signature(self, given)
        called = f"{self.name}, called with image_size={image_size} and num_classes={num_classes},"
        try:
            built = self.function(**given)
        except (Exception, SystemExit) as error:  # a function of the user's may raise anything
            raise UsageError(f"model: {called} raised {_described(error, self.file)}") from error
        model = check_model(built)
        size, classes = int(model.input_shape[1]), model.output_shape[1]
        if size != image_size:
            raise ConfigError(
                [f"data.image_size: received {image_size}, but {self.name} returns a model for {size}; set it to that."]
            )
        if classes != num_classes:
            raise UsageError(f"model: {called} returned one of {classes} logits")
        if model.dtype_policy.name != policy:
            raise UsageError(
                f"model: {self.name} returned one that computes in {model.dtype_policy.name}, but the run in {policy}; "
                "leave the dtype policy to kcv, and set precision"
            )
        return model


def load(name: OwnName, folder: Path = Path(), sha256: str | None = None) -> OwnFunction:
    """Imports the file or module of a function. This runs its code.

    A file is run from the bytes that were hashed. Other modules beside it are not searched, nor are those of the
    working folder: `sys.path` stays as it is.

    Args:
        name: the name, as typed.
        folder: what a relative path of a file starts from.
        sha256: what the file must have been hashed to, in a resumed run; None if that does not matter. It is compared
            before a file is run, and after a module was imported.

    Raises:
        UsageError: there is no such file, module or function, its code raises an error, or it has changed.
    """
    if name.is_file:
        file = folder / expand_user(name.place)
        content = _content(name, file)
        _check_unchanged(name, content, sha256)
        module = _run_file(name, file, content)
    else:
        module = _import(name)
        found = getattr(module, "__file__", None)
        found = inspect.getsourcefile(module) if found else None  # a module that is built in has neither
        if found is None:
            raise UsageError(f"model.name: {name.place}: has no Python file, whose hash a run could keep")
        file = Path(found)
        content = _content(name, file)
        _check_unchanged(name, content, sha256)
    return OwnFunction(name, hashlib.sha256(content).hexdigest(), file, _function_of(module, name))


def _content(name: OwnName, file: Path) -> bytes:
    if not os.path.lexists(file):
        raise UsageError(f"model.name: {printable(file)}: no such file{_known_place(name)}")
    try:
        return read_bytes(file, _MOST_BYTES, UsageError)
    except UsageError as error:
        raise UsageError(f"model.name: {error}") from None


def _known_place(name: OwnName) -> str:
    """Returns a hint at a Python file with a similar name in the same folder, or an empty string."""
    path = expand_user(name.place)
    try:
        siblings = [str(path.with_name(other)) for other in sorted(os.listdir(path.parent)) if other.endswith(".py")]
    except (OSError, ValueError):
        return ""
    return f".{hint}" if (hint := nearest(str(path), siblings)) else ""


def _check_unchanged(name: OwnName, content: bytes, sha256: str | None) -> None:
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and found != sha256:
        raise UsageError(
            f"--resume: {name.place} has changed since the run began (SHA-256 {found[:12]}, then "
            f"{printable(sha256)[:12]}); put it back as it was, or begin a new run"
        )


def _run_file(name: OwnName, file: Path, content: bytes) -> types.ModuleType:
    # Under a name of its own: the file may be called like a module of Python.
    module = types.ModuleType(f"kcv_own_model_{hashlib.sha256(bytes(file.absolute())).hexdigest()[:16]}")
    module.__file__ = str(file.absolute())
    sys.modules[module.__name__] = module  # dataclasses and Keras look there for the classes of a module
    try:
        exec(compile(content, str(file), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:  # anybody's code may raise anything
        del sys.modules[module.__name__]
        raise UsageError(f"model.name: {name.place} raised {_described(error, file)}{_beside(error, file)}") from error
    return module


def _import(name: OwnName) -> types.ModuleType:
    try:
        return importlib.import_module(name.place)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if not (name.place == missing or name.place.startswith(f"{missing}.")):
            raise UsageError(
                f"model.name: {name.place} raised ModuleNotFoundError: {printable(first_line(error))}"
            ) from error
        file = Path(*name.place.split(".")).with_suffix(".py")
        here = f"; the working folder is not searched: name its file, {file}:{name.function}" if file.is_file() else ""
        raise UsageError(f"model.name: there is no module {missing!r}{here}") from None
    except (Exception, SystemExit) as error:  # anybody's code may raise anything
        raise UsageError(f"model.name: {name.place} raised {_described(error, None)}") from error


def _function_of(module: types.ModuleType, name: OwnName) -> Callable[..., Any]:
    found = getattr(module, name.function, None)
    if found is None:
        functions = [key for key, value in vars(module).items() if isinstance(value, types.FunctionType)]
        raise UsageError(f"model.name: {name.place}: has no {name.function!r}.{nearest(name.function, functions)}")
    if not callable(found):
        raise UsageError(f"model.name: {name}: is a {type(found).__name__}, allowed: a function")
    function: Callable[..., Any] = found
    return function


def _check_signature(own: OwnFunction, given: dict[str, int]) -> None:
    try:
        signature = inspect.signature(own.function)
    except (TypeError, ValueError):  # one that is not written in Python has none
        return
    try:
        signature.bind(**given)
    except TypeError:
        shown = shortened(printable(str(signature)), _SHOWN)
        raise UsageError(
            f"model: {own.name} takes {shown}, but is called with image_size=... and num_classes=..."
        ) from None


def _described(error: BaseException, file: Path | None) -> str:
    """Returns an error as its class, its first line, and the last line of the user's file that it came through."""
    reason = printable(first_line(error))
    kind = type(error).__name__
    text = kind if reason in ("", kind) else f"{kind}: {reason}"
    if isinstance(error, SyntaxError):
        return f"{kind}: {printable(error.msg)} (line {error.lineno})" if error.lineno else text
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    return f"{text} (line {lines[-1]})" if lines else text


def _beside(error: BaseException, file: Path) -> str:
    """Returns how to import a module that lies beside the file, if that is what failed."""
    missing = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    there = missing and any(os.path.exists(file.parent / each) for each in (missing, f"{missing}.py"))
    return f"; what lies beside a file is not searched: PYTHONPATH={file.parent} would be" if there else ""
