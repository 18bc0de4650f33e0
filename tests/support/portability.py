"""Finds what a file of Python takes for granted that only some systems have: Linux, macOS and Windows.

Which modules and names of the standard library a system has is read from the type stubs that mypy brings, where they
stand under `if sys.platform ...`. A use counts as guarded where the code asks for it first (`hasattr`, `os.name`,
`is not None` ...), or catches the error of its absence; whether the other branch does the right thing, tests say.
"""

from __future__ import annotations

import ast
import functools
import re
import sys
from collections.abc import Iterator
from pathlib import Path

SYSTEMS = ("linux", "darwin", "win32")
KEYWORDS = {"dir_fd", "src_dir_fd", "dst_dir_fd", "preexec_fn", "pass_fds", "start_new_session"}
METHODS = {"add_signal_handler", "remove_signal_handler", "create_unix_server", "create_unix_connection", "sendmsg"}
ASKS = re.compile(r"hasattr\(|os\.name|sys\.platform|platform\.system\(\)|\bis (not )?None|\.SUPPORTED")
ABSENCE = {"ImportError", "ModuleNotFoundError", "AttributeError", "NotImplementedError", "OSError"}
PLACES = re.compile(r"/(proc|sys|dev|etc|tmp|var|run)(/|$)")
"""What only some systems have as a path."""
PATHS = re.compile(r"(path|file|place|folder|name|page|log)$")
"""Names of what may be a `Path`."""
OTHERWISE = {"kill"}
"""Names that Windows has, but with another meaning: `os.kill` ends a process with any signal, 0 among them."""


class Stubs:
    """What a module of the standard library has on each system, by its type stubs.

    Args:
        folder: the folder `stdlib` of typeshed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @functools.cache  # noqa: B019  (one object per test run)
    def names(self, module: str) -> dict[str, frozenset[str]] | None:
        """Returns for each system the names that the module binds there; None for a module that has no stubs."""
        base = self._folder.joinpath(*module.split("."))
        path = next((path for path in (base.with_suffix(".pyi"), base / "__init__.pyi") if path.is_file()), None)
        if path is None:
            return None
        tree = ast.parse(path.read_text(encoding="utf-8"))
        return {system: frozenset(_bound(tree.body, system, self)) for system in SYSTEMS}

    def is_everywhere(self, module: str) -> bool:
        """Whether all systems have a module, or it is none of the standard library."""
        names = self.names(module)
        return names is None or all(names.values()) or not any(names.values())

    def lacks(self, module: str, name: str) -> set[str]:
        """Returns the systems on which a module has no such name, although it has on another one."""
        names = self.names(module)
        if names is None:
            return set()
        missing = {system for system, known in names.items() if name not in known}
        return missing if len(missing) < len(SYSTEMS) else set()


def _bound(body: list[ast.stmt], system: str, stubs: Stubs) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.If):
            yield from _bound(node.body if _holds(node.test, system) else node.orelse, system, stubs)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.AnnAssign | ast.Assign):
            targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets
            yield from (target.id for target in targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if alias.name == "*" and node.module and not node.level:
                    yield from (stubs.names(node.module) or {}).get(system, frozenset())
                elif alias.asname:  # only these are names of the module
                    yield alias.asname
    # What else binds a name does not depend on the system.


def _holds(test: ast.expr, system: str) -> bool:
    """Evaluates a condition of a stub on a system, with this Python's version."""
    if isinstance(test, ast.BoolOp):
        parts = [_holds(value, system) for value in test.values]
        return all(parts) if isinstance(test.op, ast.And) else any(parts)
    if isinstance(test, ast.UnaryOp):
        return not _holds(test.operand, system)
    known = {"sys.platform": system, "sys.version_info": sys.version_info}
    text = ast.unparse(test)
    if not any(name in text for name in known):
        return True
    return bool(eval(text, {"sys": _Sys(system), "__builtins__": {}}))


class _Sys:
    version_info = sys.version_info

    def __init__(self, platform: str) -> None:
        self.platform = platform


def problems(path: Path, stubs: Stubs) -> list[str]:
    """Returns what in a file is used without a guard, as `line: what`."""
    return sorted(set(_Search(path.read_text(encoding="utf-8"), stubs).found))


class _Search(ast.NodeVisitor):
    """Walks a file with the ancestors of each node at hand."""

    def __init__(self, text: str, stubs: Stubs) -> None:
        tree = ast.parse(text)
        self._stubs = stubs
        asked = re.findall(r"(\w+)\.(?:is_file|is_dir|exists)\(\)|os\.path\.(?:isfile|isdir|exists)\((\w+)\)", text)
        self._asked_for = {first or second for first, second in asked}
        self._above: list[ast.AST] = []
        self._modules: dict[str, str] = {}
        self._constants = {
            target.id: ast.unparse(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        self.found: list[str] = []
        self.visit(tree)

    def generic_visit(self, node: ast.AST) -> None:
        self._above.append(node)
        super().generic_visit(node)
        self._above.pop()

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._modules[alias.asname or alias.name] = alias.name
            if not self._stubs.is_everywhere(alias.name):
                self._tell(node, f"import {alias.name}")

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            module = node.module or ""
            name = f"{module}.{alias.name}"  # perhaps a module itself
            known = self._stubs.names(name) is not None or not self._stubs.lacks(module, alias.name)
            if not (known and self._stubs.is_everywhere(module) and self._stubs.is_everywhere(name)):
                self._tell(node, f"from {module} import {alias.name}")

    def visit_Attribute(self, node: ast.Attribute) -> None:
        module = self._modules.get(_dotted(node.value))
        if module is not None and (self._stubs.lacks(module, node.attr) or (module == "os" and node.attr in OTHERWISE)):
            self._tell(node, f"{module}.{node.attr}")
        if node.attr in METHODS:
            self._tell(node, f".{node.attr}")
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):  # a docstring
            self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str) and PLACES.match(node.value):
            self._tell(node, node.value)

    def visit_Call(self, node: ast.Call) -> None:
        for keyword in node.keywords:
            if keyword.arg in KEYWORDS and not ASKS.search(ast.unparse(keyword.value)):
                self._tell(node, f"{keyword.arg}=")
        if _dotted(node.func) == "os.open":
            flags = " ".join(self._constants.get(word, word) for word in re.findall(r"[\w.]+", ast.unparse(node)))
            if "BINARY" not in flags and "devnull" not in flags:
                self._tell(node, "os.open without O_BINARY")
        if _opens_text(node) and not any(keyword.arg == "encoding" for keyword in node.keywords):
            self.found.append(f"{node.lineno}: text without encoding: {ast.unparse(node)}")
        self.generic_visit(node)

    def _tell(self, node: ast.AST, what: str) -> None:
        if not self._is_guarded(node):
            self.found.append(f"{node.lineno}: {what}")  # type: ignore[attr-defined]

    def _is_guarded(self, node: ast.AST) -> bool:
        below: ast.AST = node
        for above in reversed(self._above):
            if isinstance(above, ast.If | ast.IfExp | ast.While) and ASKS.search(ast.unparse(above.test)):
                return True
            if isinstance(above, ast.comprehension | ast.BoolOp) and ASKS.search(ast.unparse(above)):
                return True
            if isinstance(above, ast.Try) and below in above.body and _catches(above):
                return True
            if isinstance(above, ast.With) and any(_suppresses(item.context_expr) for item in above.items):
                return True
            if isinstance(above, ast.Assign) and self._asked_for & {ast.unparse(target) for target in above.targets}:
                return True  # the path of a file that is asked for
            if isinstance(above, ast.FunctionDef | ast.AsyncFunctionDef):
                return _leaves_before(above.body, node)
            below = above
        return False


def _dotted(node: ast.expr) -> str:
    """Returns a name such as `os.path.join`; much faster than `ast.unparse`. For anything else, only its last part."""
    if isinstance(node, ast.Name):
        return node.id
    return f"{_dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""


def _catches(node: ast.Try) -> bool:
    caught = " ".join(ast.unparse(handler.type) for handler in node.handlers if handler.type is not None)
    return bool(ABSENCE & set(re.findall(r"\w+", caught)))


def _suppresses(expression: ast.expr) -> bool:
    return bool(ABSENCE & set(re.findall(r"\w+", ast.unparse(expression)))) and "suppress(" in ast.unparse(expression)


def _leaves_before(body: list[ast.stmt], node: ast.AST) -> bool:
    """Whether a function has returned before a node where it has asked."""
    for statement in body:
        if statement.lineno >= node.lineno:  # type: ignore[attr-defined]
            return False
        asks = isinstance(statement, ast.If) and ASKS.search(ast.unparse(statement.test))
        if asks and isinstance(statement.body[-1], ast.Return | ast.Raise):  # type: ignore[attr-defined]
            return True
    return False


def _opens_text(node: ast.Call) -> bool:
    """Whether a call reads or writes text, whose encoding is the system's own where none is named."""
    name = _dotted(node.func)
    if name in {"subprocess.run", "subprocess.Popen", "subprocess.check_output"}:
        return any(keyword.arg in {"text", "universal_newlines"} for keyword in node.keywords)
    method = node.func.attr if isinstance(node.func, ast.Attribute) else name
    if method in {"read_text", "write_text"}:
        return len(node.args) < (1 if method == "read_text" else 2)
    if name in {"io.TextIOWrapper", "tempfile.NamedTemporaryFile", "tempfile.TemporaryFile"}:
        if name == "io.TextIOWrapper":
            return len(node.args) < 2
        return any(re.fullmatch("[rwax+]+t?[rwax+]*", word) for word in _modes(node))
    if name in {"open", "os.fdopen", "io.open", "gzip.open"}:
        modes = [word for word in _modes(node) if re.fullmatch("[rwaxbt+U]+", word)]
        return not any("b" in mode for mode in modes) and (name != "gzip.open" or any("t" in mode for mode in modes))
    if method == "open" and isinstance(node.func, ast.Attribute) and name != "os.open":
        modes = [word for word in _modes(node, first=0) if re.fullmatch("[rwaxbt+]{1,3}", word)]
        if not modes:
            return not node.args and bool(PATHS.search(ast.unparse(node.func.value)))
        return not any("b" in mode for mode in modes)
    return False


def _modes(node: ast.Call, first: int = 1) -> list[str]:
    values = [*node.args[first : first + 1], *(keyword.value for keyword in node.keywords if keyword.arg == "mode")]
    return [value.value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, str)]
