"""Completion in shells: each script is run in its shell where that is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from kcv.cli import main
from kcv.cli.completion import completion
from kcv.cli.specification import config_keys, find_verb
from kcv.cli.verbs import VERBS

BASH = shutil.which("bash")
SHELLS = ("bash", "zsh", "fish")
FLAGS = {"bash": "--{name}", "zsh": "'--{name}", "fish": "-l {name} "}


def completed(*words: str) -> list[str]:
    """Returns what bash offers for the last of the words, which it has split as it does: `--flag`, `=`, `value`."""
    assert BASH is not None
    script = completion("bash") + '\nCOMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _kcv; printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run([BASH, "-c", script, "bash", "kcv", *words], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.skipif(BASH is None or os.name == "nt", reason="needs bash")
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["ev"], ["evaluate"]),
        (["--v"], ["--version"]),
        (["evaluate", "--sp"], ["--split="]),
        (["evaluate", "--split", "="], ["train", "val", "test"]),
        (["evaluate", "--split", "=", "te"], ["test"]),
        (["evaluate", "--split", "te"], ["test"]),
        (["evaluate", "m", "--plo"], ["--plots"]),
        (["evaluate", "m", "--plots", "="], ["true", "false"]),
        (["evaluate", "m", "--plots", ""], []),  # files
        (["explain", "--method", "=", "gradcam+"], ["gradcam++"]),
        (["export", "--opset", "=", "2"], ["20", "21"]),
        (["train", "--optim.sch"], ["--optim.schedule="]),
        (["train", "--optim.schedule", "=", "co"], ["cosine", "constant"]),
        (["train", "--lr", "=", ""], []),
        (["benchmark", "m"], ["memory"]),
        (["completion", ""], ["bash", "zsh", "fish"]),
        (["no_such_verb", "--"], []),
    ],
)
def test_bash_completes_verbs_flags_choices_and_configuration_keys(words: list[str], offered: list[str]) -> None:
    assert completed(*words) == offered


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_names_every_verb_flag_and_configuration_key(shell: str) -> None:
    script = completion(shell)  # type: ignore[arg-type]
    for name in VERBS:
        verb = find_verb(name)
        assert verb.name in script
        for flag in verb.flags:
            assert FLAGS[shell].format(name=flag) in script
    for key in config_keys().keys.values():
        for name in {key.name, key.short}:
            assert FLAGS[shell].format(name=name) in script


@pytest.mark.parametrize(
    ("shell", "lines"),
    [
        ("zsh", (
            "#compdef kcv",
            "        'predict:Classify images.'",
            r"        'evaluate:Measure a model on a split\: accuracy with its interval, per class, with plots.'",
            "                '--split=[the split to measure]:split:(train val test)' \\",
            "                '--top_k=[number of classes to rank; default\\: 1, for a single image 5]:top_k:_files' \\",
            "                '--recursive[search folders recursively]' \\",
            "                '*:PATH:_files' \\",
            "                '1:WHAT:(train predict serve data memory scaling)' \\",
        )),
        ("fish", (
            "complete -c kcv -n __fish_use_subcommand -f -a predict -d 'Classify images.'",
            "complete -c kcv -n '__fish_seen_subcommand_from evaluate' -l split "
            "-d 'the split to measure' -x -a 'train val test'",
            "complete -c kcv -n '__fish_seen_subcommand_from predict' -l recursive -d 'search folders recursively'",
            "complete -c kcv -n '__fish_seen_subcommand_from report' -l output_dir "
            "-d 'folder for both files; default: the run folder' -r",
            r"complete -c kcv -n '__fish_seen_subcommand_from evaluate' -l explain "
            r"-d 'also measure how far the model\'s heat maps can be trusted (seconds to minutes)'",
            "complete -c kcv -n '__fish_seen_subcommand_from benchmark' -f "
            "-a 'train predict serve data memory scaling'",
        )),
    ],
)  # fmt: skip
def test_lines_of_the_other_shells(shell: str, lines: tuple[str, ...]) -> None:
    script = completion(shell).splitlines()  # type: ignore[arg-type]
    for line in lines:
        assert line in script


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_reads_its_script(shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"needs {shell}")
    (tmp_path / "script").write_text(capsys.readouterr().out, encoding="utf-8")
    done = subprocess.run([program, "-n", str(tmp_path / "script")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("fish") is None, reason="needs fish")
def test_fish_completes_choices(tmp_path: Path) -> None:
    (tmp_path / "kcv.fish").write_text(completion("fish"), encoding="utf-8")
    command = f"source {tmp_path / 'kcv.fish'}; complete -C 'kcv evaluate --split=t'; complete -C 'kcv ev'"
    done = subprocess.run(
        ["fish", "-c", command], capture_output=True, text=True, check=True, env={**os.environ, "HOME": str(tmp_path)}
    )
    assert [line.partition("\t")[0] for line in done.stdout.splitlines()] == [
        "--split=test",
        "--split=train",
        "evaluate",
    ]
