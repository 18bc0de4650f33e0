from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from warm import PATIENCE

from kcv import __version__, tasks
from kcv.cli import main
from kcv.cli.specification import find_verb, function_of
from kcv.cli.verbs import VERBS
from kcv.config import SHORT_FLAGS, Config
from kcv.config.keys import specify
from kcv.errors import DataError

METRICS: dict[str, Any] = {
    "split": "test",
    "n": 1000,
    "accuracy": 0.9765,
    "accuracy_ci95": [0.96, 0.99],
    "balanced_accuracy": 0.96,
    "macro_f1": 0.97,
    "macro_f1_ci95": [0.95, 0.98],
    "top_k_accuracy": {"2": 0.99},
    "roc_auc_macro": None,
    "average_precision_macro": None,
    "log_loss": 0.1,
    "brier": 0.2,
    "ece": 0.01,
    "confused_pairs": [{"true": "cat", "predicted": "dog", "count": 6, "share": 0.5}],
    "abstention": {"threshold": 0.8, "coverage": 0.75, "precision": 0.99, "precision_ci95": [0.98, 0.995]},
    "per_class": {"cat": {"precision": None, "recall": 0.5, "f1": 0.25, "support": 12}},
}


def row(path: str, label: str = "", error: str = "", **more: Any) -> dict[str, Any]:
    return {"path": path, "label": label, "confidence": None if error else 0.9, "error": error, **more}


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """Stands in for training, which other tests run; holds the configurations it was called with."""
    seen: list[Config] = []

    def train(config: Config, resume: object = None, began: float | None = None) -> SimpleNamespace:
        seen.append(config)
        return SimpleNamespace(
            directory=Path("runs/a"),
            model_path=Path("runs/a/model.keras"),
            metrics=METRICS,
            history=[{"epoch": 1.0}, {"epoch": 2.0}],
            best_epoch=2,
            seconds=12.3,
            tracking="sqlite:////tmp/mlflow.db",
        )

    _training(monkeypatch, train)
    return seen


def _training(monkeypatch: pytest.MonkeyPatch, train: Callable[..., Any]) -> None:
    """Puts a light function in the place of `kcv.train`, whose module imports Keras."""
    module = SimpleNamespace(train=train)
    monkeypatch.setitem(sys.modules, "kcv.tasks.train", module)
    monkeypatch.setattr(tasks, "train", module, raising=False)


def _stand_in(monkeypatch: pytest.MonkeyPatch, verb: str, function: Callable[..., Any]) -> None:
    """Puts a function in the place of a verb's; what the verb takes stays."""
    taken = functools.wraps(function_of(verb))(function)
    monkeypatch.setattr(f"{VERBS[verb].module}.{verb}", taken)


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_every_verb(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for verb in map(find_verb, VERBS):
        assert f"  {verb.name} {verb.usage}" in out
        assert verb.summary in out


@pytest.mark.parametrize("name", VERBS)
def test_help_of_a_verb_lists_every_option(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    out = capsys.readouterr().out
    for flag in find_verb(name).flags:
        assert re.search(rf"^  --{flag}\b", out, re.MULTILINE)
    assert main(["help", name]) == 0
    assert capsys.readouterr().out == out


def test_help_of_train_lists_every_key_with_its_default_and_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for key in specify(Config, SHORT_FLAGS).keys.values():
        default = "null" if key.default is None else key.default
        flag = f"--{key.name}" if key.short == key.name else f"--{key.short}, --{key.name}"
        assert f"{flag}={default} {key.description}" in out


def test_help_is_printed_at_once_even_on_a_terminal_with_a_pager(cold_kcv: Any) -> None:
    done = cold_kcv("train", "--help", PAGER="false")
    assert done.returncode == 0
    assert "--optim.lr=0.002" in done.stdout


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"kcv {__version__}\n"


@pytest.mark.serial
def test_a_bad_flag_answers_before_anything_heavy_is_imported(cold_kcv: Any) -> None:
    """In little more than the time of the imports that read a configuration; torch alone takes ten times that."""
    flag, imports = [], []
    for _ in range(3):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import pydantic, yaml, fire"], check=True)
        between = time.perf_counter()
        done = cold_kcv("train", "--no_such_flag=1")
        imports.append(between - began)
        flag.append(time.perf_counter() - between)
    assert min(flag) < 4 * min(imports)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(
        r"kcv: error: unknown option --no_such_flag for train\. The nearest is --\S+; see kcv train --help\.\n",
        done.stderr,
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "unknown verb 'trian'. Did you mean 'train'? There are train, tune, evaluate, predict, explain, embed, similar, export, push, serve, compare, report, check, info, models, benchmark, completion; see kcv --help."),
        (["help", "nothing"], "unknown verb 'nothing'. There are train, tune, evaluate, predict, explain, embed, similar, export, push, serve, compare, report, check, info, models, benchmark, completion; see kcv --help."),
        (["train", "--epoch=3"], "unknown option --epoch for train. Did you mean --epochs?"),
        (["train", "--learning-rate", "3"], "unknown option --learning-rate for train. Did you mean --lr?"),
        (["train", "--weight_decay=3"], "unknown option --weight_decay for train. Did you mean --optim.weight_decay?"),
        (["evaluate", "m", "--splt=test"], "unknown option --splt for evaluate. Did you mean --split?"),
        (["train", "-e", "5"], "unknown option -e for train. The nearest is --seed; see kcv train --help."),
        (["train", "--lr"], "--lr needs a value: --lr=VALUE."),
        (["train", "--train.ema", "--lr=1"], "--train.ema needs a value: --train.ema=VALUE."),
        (["train", "--lr=1", "--lr=2"], "--lr is given twice; give it once."),
        (["train", "--lr=1", "--optim.lr=2"], "optim.lr: given twice, as 'lr' and as 'optim.lr'; give it once."),
        (["train", "a.yaml", "b.yaml"], "train takes [CONFIG] and options, but not 'b.yaml' as well."),
        (["train", ""], "train: CONFIG is empty; a YAML file; without one, the defaults below."),
        (["train", "--", "--interactive"], "-- is not understood; write the path of a file, ./-name if it begins with a dash."),
        (["info", "-"], "- is not understood; write the path of a file, ./-name if it begins with a dash."),
        (["predict", "-", "x.png", "--model=m"], "predict: - stands alone; the list on standard input names all images."),
        (["predict", "x.png", "--model=m", "--recursive=perhaps"], "--recursive: received 'perhaps', allowed: true, false."),
        (["export", "m", "--opset=7"], "--opset: received '7', allowed: 18, 19, 20, 21."),
        (["export", "m", "--force", "--force"], "--force is given twice; give it once."),
        (["info"], "info needs MODEL: a model file (model.keras, model.onnx), or the run folder that holds it."),
        (["models", "m"], "models takes only options, but not 'm'."),
        (["info", "m", "n"], "info takes MODEL and options, but not 'n' as well."),
        (["info", "m", "--format=yaml"], "--format: received 'yaml', allowed: text, json."),
        (["evaluate", "m", "--split=tset"], "--split: received 'tset', allowed: train, val, test. Did you mean 'test'?"),
        (["evaluate", "m", "--batch_size=0"], "--batch_size: received '0', allowed: a whole number from 1 to 999999999."),
        (["evaluate", "m", "--output_dir="], "--output_dir: received '', a value is needed."),
        (["predict", "x.png"], "predict needs --model=MODEL: a model file (model.keras, model.onnx), or a run folder."),
        (["predict", "--model=m"], "predict needs PATH...: images, folders or quoted patterns ('photos/*.jpg'); - reads a list of images from standard input."),
        (["predict", "x", "--top_k=many"], "--top_k: received 'many', allowed: a whole number from 1 to 999999999."),
    ],
)  # fmt: skip
def test_bad_usage_is_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert capsys.readouterr() == ("", f"kcv: error: {message}\n")


def test_values_reach_the_configuration_as_typed(
    trained: list[Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Fire alone would make a tuple of `a,b`, a number of 007 and a dict of {x:1}.
    path = tmp_path / "a,b.yaml"
    path.write_text("seed: 7\n")
    words = [str(path), "--data={x:1}", "--output-dir", "007", "--lr", "1e-2", "--optim.weight_decay=0", "--name=1,2"]
    assert main(["train", *words]) == 2
    assert "name: received '1,2'" in capsys.readouterr().err
    assert main(["train", *words[:-1]]) == 0
    (config,) = trained
    assert (config.seed, config.data.source, config.output_dir) == (7, "{x:1}", Path("007"))
    assert (config.optim.lr, config.optim.weight_decay) == (0.01, 0.0)
    assert main(["train", "--config", str(path), "--seed=8"]) == 0
    assert trained[1].seed == 8


def test_train_says_what_came_out_and_what_to_do_next(
    trained: list[Config], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "97.65% (95% interval 96.00% to 99.00%, n = 1,000)" in out
    assert "kcv evaluate runs/a/model.keras" in out
    assert "mlflow ui --backend-store-uri sqlite:////tmp/mlflow.db" in out
    assert "\033" not in out  # no colour but on a terminal


def test_suggested_commands_are_written_as_kcv_was_called(
    trained: list[Config], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("UV_RUN_RECURSION_DEPTH", raising=False)
    for called, uv, expected in (
        ("/usr/bin/kcv", False, "  kcv info"),
        ("/site-packages/kcv/__main__.py", False, "  python -m kcv info"),
        ("/site-packages/kcv/__main__.py", True, "  uv run python -m kcv info"),
    ):
        monkeypatch.setattr(sys, "argv", [called])
        if uv:
            monkeypatch.setenv("UV_RUN_RECURSION_DEPTH", "1")
        assert main(["train"]) == 0
        assert expected in capsys.readouterr().out.splitlines()[9]


def test_an_unsure_row_names_the_likeliest_class(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unsure = row("a.png", "unsure", likeliest="cat", label_2="dog", confidence_2=0.08)
    options: dict[str, Any] = {}

    def predict(*_: Any, **given: Any) -> Any:
        options.update(given)
        return iter([unsure])

    _stand_in(monkeypatch, "predict", predict)
    assert main(["predict", "a.png", "--model=m", "--threshold=0.95"]) == 0
    assert options["threshold"] == 0.95
    assert capsys.readouterr().out.splitlines()[:2] == [
        "a.png  unsure  cat 90.00%  dog 8.00%",
        "  cat   90.00%  " + "#" * 27,
    ]
    assert main(["predict", "a.png", "--model=m", "--threshold=2"]) == 2
    assert "--threshold: received '2', allowed: a number from 0 to 1." in capsys.readouterr().err


def test_train_as_json(trained: list[Config], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--format=json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["metrics"] == METRICS
    assert (content["model"], content["epochs"], content["best_epoch"]) == ("runs/a/model.keras", 2, 2)


def test_evaluate_hands_on_its_options_and_shows_a_table(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    def evaluate(model: str, **options: Any) -> SimpleNamespace:
        calls.append((model, options))
        return SimpleNamespace(metrics=METRICS, directory=Path("there"), explanations=None)

    _stand_in(monkeypatch, "evaluate", evaluate)
    assert main(["evaluate", str(tmp_path), "--data=digits", "--output_dir=x", "--batch_size=7"]) == 0
    model, options = calls[0]
    assert model == str(tmp_path)
    assert options.keys() == {"data", "output_dir", "batch_size", "progress"}
    assert options.items() >= {"data": "digits", "output_dir": "x", "batch_size": 7, "progress": True}.items()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["class", "precision", "recall", "f1", "support"]
    assert lines[1].split() == ["cat", "-", "0.5000", "0.2500", "12"]
    assert any("97.65%" in line for line in lines)
    assert any("0.9700 (95% interval 0.9500 to 0.9800)" in line for line in lines)
    assert any("cat as dog (6)" in line for line in lines)
    assert any("75.00% of the images, at confidence 0.8000 and above; 99.00% of them right" in line for line in lines)
    assert main(["evaluate", "m.keras", "--format=json"]) == 0
    assert json.loads(capsys.readouterr().out) == {**METRICS, "directory": "there"}


def test_predict_ranks_one_image_and_lists_many(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row("a.png", "cat", label_2="dog", confidence_2=0.08), row("b.png", "dog"), row("c.png", error="truncated")]
    _stand_in(monkeypatch, "predict", lambda paths, **_: iter(rows[: len(paths)]))
    assert main(["predict", "a.png", "--model=m"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "a.png  cat  90.00%  dog 8.00%",
        "  cat   90.00%  " + "#" * 27,
        "  dog    8.00%  ##",
    ]
    assert main(["predict", "a.png", "b.png", "c.png", "--model=m"]) == 2
    out, err = capsys.readouterr()
    assert out.splitlines() == ["a.png  cat  90.00%  dog 8.00%", "b.png  dog  90.00%", "c.png  error: truncated"]
    assert err == "kcv: error: 1 image could not be read; see the rows with an error.\n"
    assert main(["predict", "a.png", "b.png", "--model=m", "--format=json"]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == rows[:2]


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (DataError("the folder x is empty"), 2, "kcv: error: the folder x is empty\n"),
        (KeyboardInterrupt(), 130, "kcv: error: interrupted.\n"),
    ],
)
def test_exit_codes(
    error: BaseException, code: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(_: Config, resume: object = None, began: float | None = None) -> None:
        raise error

    _training(monkeypatch, train)
    assert main(["train"]) == code
    assert capsys.readouterr() == ("", message)


def test_a_bug_shows_its_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def train(_: Config, resume: object = None, began: float | None = None) -> None:
        raise ZeroDivisionError("a bug")

    _training(monkeypatch, train)
    assert main(["train"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("Traceback")
    assert err.endswith("ZeroDivisionError: a bug\n")


def test_a_reader_that_leaves_early_causes_no_noise() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "kcv", "train", "--help"],
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
        timeout=PATIENCE,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_class_name_fits_any_terminal(cold_kcv: Any) -> None:
    done = cold_kcv("info", "kätzchen-猫", PYTHONIOENCODING="ascii:strict")
    assert done.returncode == 2
    assert done.stderr.startswith("kcv: error: ")


@pytest.mark.parametrize("dies", [True, False])
def test_a_process_does_not_wait_at_its_end_for_readers_that_cannot_end(
    dies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Reader:
        alive = True

        def kill(self) -> None:
            self.alive = not dies

        def join(self, seconds: float) -> None:
            assert seconds < 10

    reader, codes = Reader(), []
    monkeypatch.setattr("multiprocessing.active_children", lambda: [reader] if reader.alive else [])
    monkeypatch.setattr(os, "_exit", codes.append)
    monkeypatch.setattr(sys, "argv", ["kcv", "no-such-verb"])
    assert main() == 2
    assert codes == ([] if dies else [2])
