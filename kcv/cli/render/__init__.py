"""Shows the results of the verbs, with one module per verb.

A module has `show(answer, call)`, which prints the result as text or JSON and returns the exit code. A verb whose
function has a parameter `progress` shows a progress bar, unless the module's `shows_progress(call)` returns False.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from kcv.cli.parsing import Call
from kcv.cli.specification import function_of


def run(call: Call) -> int:
    """Calls the function of a verb, shows the result, and returns the exit code."""
    module: Any = importlib.import_module(f"kcv.cli.render.{call.verb.name}")
    function = function_of(call.verb.name)
    arguments = dict(call.arguments)
    if "progress" in inspect.signature(function).parameters:
        arguments["progress"] = not hasattr(module, "shows_progress") or module.shows_progress(call)
    return int(module.show(function(**arguments), call))
