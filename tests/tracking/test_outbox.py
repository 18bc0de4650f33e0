"""The outbox alone: what it keeps, in which order, and who may have it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from windows_locks import use_windows_locks

from kcv.tracking.outbox import Outbox

HERE = "http://host:5000"


def make(folder: Path, **header: Any) -> Outbox:
    return Outbox.create(folder, {"kind": "run", "location": HERE, "time": 1, **header})


def rest(outbox: Outbox) -> list[Any]:
    """Delivers what waits, and returns it."""
    found = []
    while (entry := outbox.peek()) is not None:
        found.append(entry.get("n", entry.get("kind", "damaged")))
        outbox.advance()
    return found


def test_entries_come_out_in_order_while_others_go_in(tmp_path: Path) -> None:
    outbox = make(tmp_path)
    assert rest(outbox) == ["run"]
    assert outbox.peek() is None

    def write() -> None:
        for n in range(500):
            outbox.append({"n": n, "text": "x" * (n * 7 % 1000)})

    thread = threading.Thread(target=write)
    thread.start()
    found = rest(outbox)
    thread.join()
    assert found + rest(outbox) == list(range(500))
    assert outbox.waiting == 0
    outbox.remove()
    outbox.append({"n": 501})  # too late: no harm
    assert list(tmp_path.iterdir()) == []


def test_the_next_owner_goes_on_where_the_last_one_was(tmp_path: Path) -> None:
    outbox = make(tmp_path)
    for n in range(3):
        outbox.append({"n": n})
    assert outbox.peek() is not None
    outbox.run_id = "abc"
    outbox.advance()
    assert (outbox.peek() or {})["n"] == 0
    outbox.advance()
    outbox.close()
    (found,) = Outbox.leftovers(tmp_path, HERE)
    assert (found.name, found.run_id, found.waiting) == (outbox.name, "abc", 2)
    assert rest(found) == [1, 2]
    found.close()


def test_half_a_line_at_the_end_is_no_entry(tmp_path: Path) -> None:
    outbox = make(tmp_path)
    outbox.append({"n": 0})
    outbox.close()
    with outbox.path.open("ab") as stream:
        stream.write(b'{"n": 1, "te')
    (found,) = Outbox.leftovers(tmp_path, HERE)
    assert found.waiting == 2
    assert rest(found) == ["run", 0]
    assert found.waiting == 0
    found.close()


def test_a_damaged_line_is_not_the_end(tmp_path: Path) -> None:
    outbox = make(tmp_path)
    outbox.close()
    with outbox.path.open("ab") as stream:
        stream.write(b'\x00\xff\n[1]\n{"n": 2}\n')
    (found,) = Outbox.leftovers(tmp_path, HERE)
    assert rest(found) == ["run", "damaged", "damaged", 2]
    found.close()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"offset": "x"}'])
def test_without_its_cursor_an_outbox_begins_again(tmp_path: Path, text: str) -> None:
    outbox = make(tmp_path)
    outbox.append({"n": 0})
    rest(outbox)
    outbox.close()
    outbox.path.with_suffix(".cursor").write_text(text)
    (found,) = Outbox.leftovers(tmp_path, HERE)
    assert rest(found) == ["run", 0]
    found.close()


def test_a_full_disk_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    outbox = make(tmp_path)
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr("os.write", lambda handle, data: write(handle, data[:5]))
        with pytest.raises(OSError, match="the disk is full"):
            outbox.append({"n": 0})
    outbox.append({"n": 1})
    assert rest(outbox) == ["run", 1]
    outbox.close()


def test_nobody_takes_an_outbox_of_a_living_process(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from kcv.tracking.outbox import Outbox\n"
        f"outbox = Outbox.create(Path(sys.argv[1]), {{'kind': 'run', 'location': '{HERE}', 'time': 2}})\n"
        "outbox.append({'n': 7}); print(outbox.name, flush=True); sys.stdin.read()"
    )
    root = Path(__file__).resolve().parent.parent.parent
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": root}
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], **pipes) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        assert Outbox.leftovers(tmp_path, HERE) == []
        process.kill()
        process.wait()
    (found,) = Outbox.leftovers(tmp_path, HERE)
    assert found.name == name
    assert rest(found) == ["run", 7]
    assert Outbox.leftovers(tmp_path, HERE) == []  # this process has it now
    found.remove()


def test_outboxes_are_handed_on_by_the_locks_of_windows_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_windows_locks(monkeypatch)
    outbox = make(tmp_path)
    outbox.append({"n": 7})
    assert (outbox.waiting, Outbox.leftovers(tmp_path, HERE)) == (2, [])
    outbox.close()
    (found,) = Outbox.leftovers(tmp_path, HERE)
    assert rest(found) == ["run", 7]
    assert Outbox.leftovers(tmp_path, HERE) == []
    found.remove()
    assert list(tmp_path.iterdir()) == []


def test_spools_are_left_to_their_own_store_and_the_oldest_goes_first(tmp_path: Path) -> None:
    for time, location in ((3, HERE), (1, HERE), (2, "http://other"), (4, HERE)):
        make(tmp_path, time=time, location=location).close()
    (tmp_path / "spool-strange.jsonl").write_text("not a outbox\n")
    (tmp_path / "spool-empty.jsonl").write_text("")
    (tmp_path / "spool-future.jsonl").write_text(json.dumps({"version": 99, "location": HERE}) + "\n")
    found = Outbox.leftovers(tmp_path, HERE)
    assert [outbox.header["time"] for outbox in found] == [1, 3, 4]
    for outbox in found:
        outbox.close()


def test_only_its_owner_can_read_an_outbox(tmp_path: Path) -> None:
    outbox = make(tmp_path)
    assert outbox.path.stat().st_mode & 0o077 == 0
    outbox.close()


@pytest.mark.parametrize("time", ["x", None, [1], True, {}, "1"])
def test_an_outbox_with_a_damaged_time_is_put_away(tmp_path: Path, time: Any) -> None:
    make(tmp_path, time=time).close()
    make(tmp_path, time=2).close()
    (found,) = Outbox.leftovers(tmp_path, HERE)
    assert found.header["time"] == 2
    found.close()
    assert len(list(tmp_path.glob("*.damaged"))) == 1


@pytest.mark.parametrize(
    "text",
    [
        '{"offset": -1, "delivered": 0, "run_id": null}',
        '{"offset": 1e999, "delivered": 0, "run_id": null}',
        '{"offset": 99999999, "delivered": 0, "run_id": null}',
        '{"offset": 0, "delivered": 0, "run_id": [1]}',
        "[" * 100_000,
    ],
)
def test_a_damaged_cursor_is_no_cursor(tmp_path: Path, text: str) -> None:
    outbox = make(tmp_path)
    outbox.append({"n": 0})
    outbox.close()
    outbox.path.with_suffix(".cursor").write_text(text)
    (found,) = Outbox.leftovers(tmp_path, HERE)
    assert rest(found) == ["run", 0]
    found.close()


def test_what_is_no_file_is_no_outbox(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "spool-pipe.jsonl")
    (tmp_path / "spool-folder.jsonl").mkdir()
    assert Outbox.leftovers(tmp_path, HERE) == []
