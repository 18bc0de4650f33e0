"""Shows the results of the verbs, with one module per verb.

A module has `show(answer, call)`, which prints the result as text or JSON and returns the exit code. If the function
has parameters that cannot be typed, `python_arguments(call)` returns them.
"""

from __future__ import annotations

import importlib
from typing import Any

from kcv.cli.parsing import Call
from kcv.cli.specification import function_of


def run(call: Call) -> int:
    """Calls the function of a verb, shows the result, and returns the exit code."""
    module: Any = importlib.import_module(f"kcv.cli.render.{call.verb.name}")
    more = module.python_arguments(call) if hasattr(module, "python_arguments") else {}
    answer = function_of(call.verb.name)(**call.arguments, **more)
    return int(module.show(answer, call))
