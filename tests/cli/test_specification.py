"""One specification per verb: the Python call and the command line cannot differ."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import pytest

import kcv
from kcv import benchmark as room
from kcv.cli import help as helppage
from kcv.cli import main, terminal
from kcv.cli.parsing import Call, parse
from kcv.cli.specification import FORMAT, Verb, find_verb, function_of, read_verb
from kcv.cli.verbs import RENAMED, VERBS, Listed
from kcv.common.parameters import AtLeast, Between, OneOf, PythonOnly, hints_of
from kcv.config import DEVICES, PRECISIONS
from kcv.data import sources
from kcv.data.dataset import SPLITS
from kcv.errors import UsageError
from kcv.tasks.benchmark import TAKES


def parameters_of(name: str) -> dict[str, inspect.Parameter]:
    """Returns the parameters of a verb's function that can be typed."""
    function = function_of(name)
    hints = hints_of(function)
    return {
        parameter.name: parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is not parameter.VAR_KEYWORD and not hints[parameter.name].mark(PythonOnly)
    }


@pytest.mark.parametrize("name", VERBS)
def test_flags_are_the_parameters_of_the_function_with_their_defaults_and_a_meaning(name: str) -> None:
    verb, parameters = find_verb(name), parameters_of(name)
    flags = [flag for flag in (verb.operand, *verb.flags.values()) if flag is not None and flag.name != FORMAT.name]
    assert [flag.name for flag in flags] == list(parameters)
    for flag in flags:
        default = parameters[flag.name].default
        assert flag.required == (default is inspect.Parameter.empty)
        assert flag.required or flag.default == default
        assert flag.meaning and not flag.meaning.endswith(".") and "`" not in flag.meaning
        assert not flag.choices or flag.required or flag.default is None or flag.default in flag.choices
    assert verb.summary.endswith(".")
    assert verb.examples and all(example.split()[0] == name for example in verb.examples)


@pytest.mark.parametrize("name", [name for name in VERBS if name in kcv.__all__ and name != "train"])
def test_the_function_of_a_verb_is_the_one_that_python_calls(name: str) -> None:
    assert function_of(name) is getattr(kcv, name)


@pytest.mark.parametrize("name", VERBS)
def test_the_examples_of_the_help_are_commands_that_exist(name: str) -> None:
    for example in find_verb(name).examples:
        words = example.partition(" > ")[0].split()
        assert parse(find_verb(words[0]), words[1:]).verb.name == name


def test_choices_that_stand_in_two_places_are_the_same() -> None:
    flags = find_verb("evaluate").flags
    assert flags["device"].choices == DEVICES
    assert flags["split"].choices == SPLITS
    assert find_verb("benchmark").flags["precision"].choices == PRECISIONS


@pytest.mark.parametrize("name", VERBS)
def test_a_call_from_python_obeys_the_limits_of_the_command_line(name: str) -> None:
    function, verb = function_of(name), find_verb(name)
    flags = [flag for flag in (verb.operand, *verb.flags.values()) if flag is not None and flag.name != FORMAT.name]
    needed = {flag.name: flag.choices[0] if flag.choices else "x" for flag in flags if flag.required}
    for flag in flags:
        if flag.limit is None and not flag.choices:
            continue
        with pytest.raises(UsageError) as typed:
            flag.parse("?")
        with pytest.raises(UsageError) as called:
            function(**{**needed, flag.name: "?"})
        assert str(called.value) == str(typed.value).removeprefix("--")
        with pytest.raises(UsageError, match=f"^{flag.name}: received nan, allowed: "):
            function(**{**needed, flag.name: float("nan")})


@pytest.mark.parametrize("name", ["check", "compare", "evaluate"])
def test_the_help_takes_the_names_of_sources_from_the_registry(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"({sources.described()})" in " ".join(helppage.page(find_verb(name)).split())
    monkeypatch.setattr(sources, "names", lambda: ("greys",))
    assert "(greys, or the path of images)" in " ".join(helppage.page(find_verb(name)).split())


def test_each_measurement_takes_what_its_function_takes() -> None:
    functions = {"train": room.benchmark_training, "predict": room.benchmark_prediction, "data": room.benchmark_data,
                 "memory": room.benchmark_memory, "scaling": room.benchmark_scaling,
                 "serve": room.benchmark_serving}  # fmt: skip
    taken = {what: set(inspect.signature(function).parameters) for what, function in functions.items()}
    assert {what: set(options) for what, options in TAKES.items()} == taken
    operand = find_verb("benchmark").operand
    assert operand is not None and operand.choices == tuple(TAKES)


def toy(
    paths: list[str],
    model: Path | Unknown,  # type: ignore[name-defined]  # noqa: F821  (as a class that only type checkers import)
    *,
    method: Literal["a", "b"] = "a",
    level: Literal[1, 2] = 2,
    kind: Annotated[str, OneOf(lambda: ("x", "y"))] | None = None,
    count: Annotated[int, AtLeast(3)] | None = None,
    part: Annotated[float, Between(0, 1)] = 0.5,
    force: bool = False,
    bar: Annotated[bool, PythonOnly()] = False,
) -> Unknown:  # type: ignore[name-defined]  # noqa: F821
    """Do something.

    More about it.

    Args:
        paths: the files. In Python a list.
        model: the model (`m.keras`);
            on two lines.
        method: how. See 1.5 in the paper.
        level: how much.
        kind: which kind.
        count: how many; default: enough.
        part: which part.
        force: do it.
        bar: not for the command line.

    Example:
        $ kcv toy a b --model=m
        >>> toy(["a"], "m")
    """


@pytest.fixture
def verb() -> Verb:
    return read_verb("toy", toy)


def test_a_verb_is_read_from_its_function(verb: Verb) -> None:
    assert (verb.name, verb.summary, verb.usage, verb.examples) == (
        "toy",
        "Do something.",
        "PATH...",
        ("toy a b --model=m",),
    )
    assert verb.operand is not None and verb.operand.meaning == "the files"
    assert {name: flag.meaning for name, flag in verb.flags.items()} == {
        "model": "the model (m.keras); on two lines", "method": "how", "level": "how much", "kind": "which kind",
        "count": "how many; default: enough", "part": "which part", "force": "do it",
        "format": "how results are printed",
    }  # fmt: skip


def test_what_is_typed_becomes_values_of_the_types_and_defaults_stay_the_functions(verb: Verb) -> None:
    words = ["a,b", "--model=m", "007", "--level", "1", "--count=+7", "--part=5e-1", "--force", "-1"]
    call = parse(verb, words)
    assert call.arguments == {
        "paths": ["a,b", "007", "-1"], "model": "m", "level": 1, "count": 7, "part": 0.5, "force": True,
    }  # fmt: skip
    assert not call.as_json
    assert parse(verb, ["a", "--model", "-1", "--format=json", "--force=FALSE"]) == Call(
        verb, {"paths": ["a"], "model": "-1", "force": False}, format="json"
    )


def test_a_second_operand_may_be_typed_with_and_without_its_flag() -> None:
    push = find_verb("push")
    for words in (
        ["r", "hf://a/b"],
        ["r", "--repo=hf://a/b"],
        ["--run=r", "--repo", "hf://a/b"],
        ["--run=r", "hf://a/b"],
    ):
        assert parse(push, words).arguments == {"run": "r", "repo": "hf://a/b"}
    for words, told in {
        (): "push needs RUN REPO: a run folder",
        ("r",): "push needs RUN REPO: the repository",
        ("r", "hf://a/b", "c"): "push takes RUN REPO and options, but not 'c' as well",
        ("r", "hf://a/b", "--repo=hf://a/c"): "push takes RUN REPO and options, but not 'hf://a/b' as well",
    }.items():
        with pytest.raises(UsageError, match=re.escape(told)):
            parse(push, list(words))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a"], "toy needs --model=MODEL: the model (m.keras); on two lines."),
        (["--model=m"], "toy needs PATH...: the files."),
        (["a", " ", "--model=m"], "toy: PATH is empty; the files."),
        (["a", "--model=m", "--method=c"], "--method: received 'c', allowed: a, b."),
        (["a", "--model=m", "--level=3"], "--level: received '3', allowed: 1, 2."),
        (["a", "--model=m", "--kind=z"], "--kind: received 'z', allowed: x, y."),
        (["a", "--model=m", "--count=2"], "--count: received '2', allowed: a whole number from 3 to 999999999."),
        (["a", "--model=m", "--count=3.0"], "--count: received '3.0', allowed: a whole number from 3 to 999999999."),
        (["a", "--model=m", "--part=nan"], "--part: received 'nan', allowed: a number from 0 to 1."),
        (["a", "--model=m", "--bar"], "unknown option --bar for toy. The nearest is --part; see kcv toy --help."),
        (["a", "--model=m", "---part=1"], "--part is given twice; give it once."),
        (["a", "--model"], "--model needs a value: --model=VALUE."),
        (["a", "--model", "--force"], "--model needs a value: --model=VALUE."),
        (["a", "--model", "--"], "-- is not understood; write the path of a file, ./-name if it begins with a dash."),
        (["a", "--=m"], "unknown option -- for toy. The nearest is --part; see kcv toy --help."),
        (["-", "--model=m"], "- is not understood; write the path of a file, ./-name if it begins with a dash."),
        (["a", "--paths=b", "--model=m"], "unknown option --paths for toy. Did you mean --part?"),
    ],
)
def test_what_is_typed_wrongly_is_refused_in_one_line(verb: Verb, words: list[str], message: str) -> None:
    if words[-1].startswith("---"):
        words = [*words, "--part=1"]
    with pytest.raises(UsageError) as caught:
        parse(verb, words)
    assert str(caught.value) == message


def test_an_operand_is_given_once_by_position_or_by_name() -> None:
    info = find_verb("info")
    assert parse(info, ["--model=m"]) == parse(info, ["m"])
    with pytest.raises(UsageError, match="takes MODEL and options, but not 'b' as well"):
        parse(info, ["a", "--model=b"])


def undocumented(path: str, other: str = "") -> None:
    """Do nothing.

    Args:
        path: of nothing.
    """


def unlimited(count: int = 1) -> None:
    """Count.

    Args:
        count: how many.
    """


@pytest.mark.parametrize(
    ("function", "message"),
    [(undocumented, "does not say what other means"), (unlimited, "count: a number needs a limit")],
)
def test_a_function_that_says_too_little_is_no_verb(function: Callable[..., Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        read_verb("nothing", function)


@pytest.mark.parametrize(("verb", "old"), RENAMED)
def test_an_old_name_of_a_flag_is_accepted_with_one_line_that_says_the_new_one(
    verb: str, old: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    new = RENAMED[verb, old]
    assert old not in find_verb(verb).flags and new in find_verb(verb).flags
    measured: list[dict[str, Any]] = []
    monkeypatch.setattr("kcv.benchmark.benchmark_memory", lambda **given: measured.append(given) or [])
    assert main([verb, "memory", f"--{old}=2000", "--format=json"]) == 0
    assert measured == [{new: 2000}]
    assert capsys.readouterr() == (
        "[]\n",
        f"kcv: warning: --{old} is now --{new}; the old name will go in a later release.\n",
    )
    assert main([verb, "memory", f"--{old}=2000", f"--{new}=2000"]) == 2
    assert f"--{new} is given twice" in capsys.readouterr().err


def test_a_new_verb_is_its_function_its_renderer_and_a_line_in_the_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def greet(name: str, *, times: Annotated[int, AtLeast(1)] = 1, loud: bool = False) -> list[str]:
        """Greet somebody.

        Args:
            name: who is greeted.
            times: how often.
            loud: in capitals.

        Example:
            $ kcv greet you
        """
        return [f"Hello {name}".upper() if loud else f"Hello {name}"] * times

    def show(greetings: list[str], call: Call) -> int:
        terminal.json_of(greetings) if call.as_json else terminal.show("\n".join(greetings))
        return 0

    task, renderer = ModuleType("task"), ModuleType("renderer")
    task.greet, renderer.show = greet, show  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "kcv.tasks.greet", task)
    monkeypatch.setitem(sys.modules, "kcv.cli.render.greet", renderer)
    monkeypatch.setitem(VERBS, "greet", Listed("kcv.tasks.greet"))
    assert main(["greet", "you", "--times=2", "--loud"]) == 0
    assert capsys.readouterr().out == "HELLO YOU\nHELLO YOU\n"
    assert main(["greet", "you", "--format=json"]) == 0
    assert capsys.readouterr().out == '[\n  "Hello you"\n]\n'
    assert main(["greet", "--help"]) == 0
    assert "--times=1      how often" in capsys.readouterr().out
    assert main(["--help"]) == 0
    assert "greet NAME" in capsys.readouterr().out
    assert main(["greet"]) == 2
    assert capsys.readouterr().err == "kcv: error: greet needs NAME: who is greeted.\n"
    assert main(["completion", "bash"]) == 0
    assert "greet) words=(--times= --loud --format= --help)" in capsys.readouterr().out


def test_the_help_of_all_verbs_imports_no_library() -> None:
    script = "import sys; from kcv.cli import main; assert main(['--help']) == 0; print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    assert loaded & {"numpy", "pydantic", "yaml", "PIL", "fire", "torch", "keras", "onnxruntime"} == set()
