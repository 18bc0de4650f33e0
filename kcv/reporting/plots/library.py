"""Loads matplotlib without the `matplotlibrc` of the working folder, which may be untrusted."""

from __future__ import annotations

import os
import sys
import threading
from types import ModuleType
from typing import Any
from unittest import mock

_loading = threading.Lock()
_OF_THE_FOLDER = "matplotlibrc"
"""The path in the working folder that matplotlib searches first; it has no setting to disable this."""
_NOT_OF_PLOTS = ("backend", "interactive", "toolbar", "timezone", "webagg", "tk.", "macosx")
"""Settings of windows, which kcv does not use; some of them cannot be queried from matplotlib."""


def load() -> ModuleType:
    """Returns matplotlib, importing it before any of its modules unless it is already imported."""
    with _loading:
        if "matplotlib" not in sys.modules and os.path.lexists(_OF_THE_FOLDER):
            exists = os.path.exists
            with mock.patch("os.path.exists", lambda path: path != _OF_THE_FOLDER and exists(path)):
                import matplotlib
        import matplotlib
    return matplotlib


def defaults() -> dict[str, Any]:
    """Returns matplotlib's default settings, so that plots do not depend on the user's configuration."""
    own = load().rcParamsDefault
    return {name: value for name, value in dict.items(own) if not name.startswith(_NOT_OF_PLOTS)}
