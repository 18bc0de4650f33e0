"""Configures Keras for kcv: the torch backend, float32, channels last, independent of the user's Keras settings.

Keras reads its settings from `keras.json` in `~/.keras` or, if the user has no home, in `/tmp`, where any user may have
put the file. These settings would change the results of kcv.
"""

# This module is imported with kcv itself; `kcv/__init__.py` explains why nothing else may be imported yet.
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

_SETTINGS = {"floatx": "float32", "epsilon": 1e-7, "image_data_format": "channels_last"}  # Keras' own defaults

_whole = True  # whether Keras is imported with what it can do without


def leave_out_optional() -> None:
    """Lets Keras, when it is imported, do without what only other programs need (`lean_imports`).

    For processes of kcv's own: in a user's process, parts of Keras that the user needs would be missing.
    """
    global _whole
    _whole = False


def configure_keras() -> None:
    """Configures Keras now or at its import. The backend can only be set before Keras is imported."""
    # A KERAS_BACKEND set for other programs on this machine must not break kcv.
    os.environ["KERAS_BACKEND"] = "torch"
    keras = sys.modules.get("keras")
    if keras is not None:
        _set(keras)
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _set(keras: "ModuleType") -> None:
    for name, value in _SETTINGS.items():
        getattr(keras.config, f"set_{name}")(value)


class _Finder:
    """Finds Keras in the usual places, and makes Python import it without its settings file."""

    def find_spec(
        self, name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        """Returns the spec of Keras; None for all other modules, which the other finders find."""
        if name != "keras":
            return None
        import importlib.util

        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        loader: Any = spec.loader
        execute = loader.exec_module

        def execute_alone(module: "ModuleType") -> None:
            _without_settings(execute, module)

        loader.exec_module = execute_alone
        return spec


def _without_settings(execute: "Callable[[ModuleType], None]", module: "ModuleType") -> None:
    import contextlib

    from kcv.common.lean_imports import lean

    own = os.environ.get("KERAS_HOME")
    os.environ["KERAS_HOME"] = os.devnull  # not a folder, so nothing is read or written
    try:
        with contextlib.nullcontext() if _whole else lean():
            execute(module)
    finally:
        if own is None:
            del os.environ["KERAS_HOME"]
        else:
            os.environ["KERAS_HOME"] = own
    _set(module)
    config = sys.modules.get("keras.src.backend.config")
    if hasattr(config, "_KERAS_DIR"):  # other users of Keras in this process find its downloads as usual
        home = own or os.path.join(os.path.expanduser("~"), ".keras")
        vars(config)["_KERAS_DIR"] = home if own or os.access(os.path.dirname(home), os.W_OK) else "/tmp/.keras"
