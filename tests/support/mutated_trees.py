"""Folders with one file or folder in them gone, renamed, doubled, a link, a pipe, or of the other kind."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path


def _gone(place: Path) -> None:
    shutil.rmtree(place) if place.is_dir() else place.unlink()


def _linked(place: Path, target: object) -> None:
    _gone(place)
    place.symlink_to(str(target))


def _pipe(place: Path) -> None:
    _gone(place)
    os.mkfifo(place)


def _other_kind(place: Path) -> None:
    folder = place.is_dir()
    _gone(place)
    place.touch() if folder else place.mkdir()


def _filled(place: Path, content: bytes) -> None:
    if place.is_dir():
        (place / "odd").write_bytes(content)
    else:
        place.write_bytes(content)


def _doubled(place: Path) -> None:
    copy = place.with_name(f"{place.name} (copy){place.suffix}")
    shutil.copytree(place, copy) if place.is_dir() else shutil.copy(place, copy)


def _locked(place: Path) -> None:
    place.chmod(0)


def _nested(place: Path) -> None:
    for _ in range(100):
        if not place.is_dir():
            _other_kind(place)
        place /= "d"
        place.mkdir()


_NAMES = (b"a\nb", b"\xff", b".hidden", b"TEST", b"\x1b[2J", b"x" * 250, b"-x", b"train", b" ")


def tree_mutants(sound: Path, mutant: Path) -> Iterator[tuple[str, Callable[[], Path]]]:
    """Yields what is changed, and a function that makes `mutant`, a copy of a folder with that change."""

    def make(name: Path, change: Callable[[Path], object]) -> Path:
        if mutant.exists():
            for folder, *_ in os.walk(mutant):
                os.chmod(folder, 0o755)
            shutil.rmtree(mutant)
        shutil.copytree(sound, mutant)
        change(mutant / name)
        return mutant

    def renamed(place: Path, new: bytes) -> None:
        place.rename(Path(os.fsdecode(os.fsencode(place.parent) + b"/" + new + os.fsencode(place.suffix))))

    changes: dict[str, Callable[[Path], object]] = {
        "gone": _gone, "a pipe": _pipe, "of the other kind": _other_kind, "doubled": _doubled, "deep": _nested,
        "not to be read": _locked, "a link to nothing": lambda place: _linked(place, "nothing"),
        "a link to itself": lambda place: _linked(place, place), "a link upwards": lambda place: _linked(place, ".."),
        "a link to a device": lambda place: _linked(place, "/dev/zero"),
        **{f"{content[:9]!r}": functools.partial(_filled, content=content)
           for content in (b"", b"\0" * 9999, b"\xff\xfe", b"[" * 9999, b"x" * 99_999, b"ref: refs/heads/../x\n")},
        **{f"called {new[:9]!r}": functools.partial(renamed, new=new) for new in _NAMES},
    }  # fmt: skip
    for path in sorted(sound.rglob("*")):
        name = path.relative_to(sound)
        for words, change in changes.items():
            yield f"{name} {words}", functools.partial(make, name, change)
