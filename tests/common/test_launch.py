import os

import pytest

from kcv.cli import main
from kcv.common.launch import Launch
from kcv.errors import UsageError

TORCHRUN = {
    "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RESTART_COUNT": "2",
    "TORCHELASTIC_RUN_ID": "job-7",
}  # fmt: skip


def test_what_torchrun_tells_is_read() -> None:
    launch = Launch.current(TORCHRUN)
    assert launch == Launch(3, 4, 1, 2, 2, "job-7")
    assert launch.is_distributed
    assert not launch.is_main_process


@pytest.mark.parametrize("environment", [{}, {"WORLD_SIZE": "1"}, {"PATH": "/bin"}])
def test_without_it_a_process_is_alone(environment: dict[str, str]) -> None:
    launch = Launch.current(environment)
    assert launch == Launch()
    assert launch.is_main_process
    assert not launch.is_distributed


def test_jobs_without_an_id_are_told_apart_by_their_starter() -> None:
    launch = Launch.current({**TORCHRUN, "TORCHELASTIC_RUN_ID": "none"})
    assert launch.job == f"torchrun-{os.getppid()}"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"RANK": None}, "RANK=None, WORLD_SIZE='4'"),
        ({"LOCAL_RANK": "x"}, "LOCAL_RANK='x'"),
        ({"RANK": "4"}, "RANK=4, WORLD_SIZE=4, LOCAL_RANK=1 and LOCAL_WORLD_SIZE=2 do not fit together"),
        ({"ACCELERATE_USE_FSDP": "true"}, "FSDP is not supported"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, str | None], said: str) -> None:
    environment = {name: value for name, value in {**TORCHRUN, **changes}.items() if value is not None}
    with pytest.raises(UsageError) as caught:
        Launch.current(environment)
    assert said in str(caught.value)


@pytest.mark.parametrize("words", [["export", "x.keras"], ["info", "x.keras"], ["benchmark", "train"]])
def test_what_cannot_be_shared_is_refused(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {**TORCHRUN, "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert main(words) == 2
    assert "runs in one process; start it without torchrun" in capsys.readouterr().err
