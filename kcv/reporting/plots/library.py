"""Matplotlib, loaded without the `matplotlibrc` of the working folder, which may be a stranger's."""

from __future__ import annotations

import os
import sys
import threading
from types import ModuleType
from typing import Any
from unittest import mock

_loading = threading.Lock()
_OF_THE_FOLDER = "matplotlibrc"
"""What matplotlib looks for first, below the working folder; no setting of its own turns that off."""
_NOT_OF_PLOTS = ("backend", "interactive", "toolbar", "timezone", "webagg", "tk.", "macosx")
"""Settings of windows, which kcv has none of; matplotlib may not be asked for some of them."""


def load() -> ModuleType:
    """Returns matplotlib; it is imported here, before any of its modules, where it has not been yet."""
    with _loading:
        if "matplotlib" not in sys.modules and os.path.lexists(_OF_THE_FOLDER):
            exists = os.path.exists
            with mock.patch("os.path.exists", lambda path: path != _OF_THE_FOLDER and exists(path)):
                import matplotlib
        import matplotlib
    return matplotlib


def defaults() -> dict[str, Any]:
    """Returns matplotlib's own settings: the same run gives the same plots, whatever a user has set for others."""
    own = load().rcParamsDefault
    return {name: value for name, value in dict.items(own) if not name.startswith(_NOT_OF_PLOTS)}
