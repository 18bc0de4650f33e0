"""Checkpoints on disk: whole or not there, with checksums, the last two kept.

A checkpoint is `checkpoint-N.safetensors`, the state, and `checkpoint-N.json`, which is written last and names the
files and their SHA-256. The weights of the best epoch are a file of their own, `best-E.safetensors`, written once and
kept for as long as a checkpoint names it. safetensors files hold numbers and can run nothing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from kcv.errors import DataError
from kcv.files import atomic, write_json
from kcv.training.resume.state import State

_log = logging.getLogger(__name__)

KEPT = 2
_NUMBER = re.compile(r"checkpoint-(\d{8})\.json")
_NAME = re.compile(r"(checkpoint|best)-\d{8}\.safetensors")


class CheckpointStore:
    """The checkpoints of one run.

    Args:
        folder: theirs alone; made where it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._next = max(self._numbers(), default=0) + 1
        self._best: dict[str, str] = {}  # checksums of the best weights that this process has written or checked

    def save(self, state: State) -> None:
        """Writes a checkpoint, then removes the ones that are no longer kept.

        Raises:
            OutputError: it cannot be written; those before it are as they were.
        """
        stem = f"checkpoint-{self._next:08d}"
        manifest: dict[str, Any] = {"epoch": state.epoch, "step": state.step, "files": {}}
        if state.best:
            best_epoch = state.plain["callbacks"]["best"]["best_epoch"]
            name = f"best-{best_epoch:08d}.safetensors"
            if name not in self._best or not (self._folder / name).is_file():
                weights = {f"{i:05d}": torch.from_numpy(array.copy()) for i, array in enumerate(state.best)}
                self._best[name] = self._write(name, weights, {})
            manifest["best"] = name
            manifest["files"][name] = self._best[name]
        name = f"{stem}.safetensors"
        manifest["files"][name] = self._write(name, state.tensors, state.plain)
        write_json(self._folder / f"{stem}.json", manifest)
        self._next += 1
        self._prune()

    def newest(self) -> State | None:
        """Returns the newest whole checkpoint; None where there is none at all.

        Raises:
            DataError: all of them are damaged.
        """
        numbers = sorted(self._numbers(), reverse=True)
        for number in numbers:
            stem = f"checkpoint-{number:08d}"
            try:
                return self._read(stem)
            except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
                _log.warning("%s is damaged (%s); the one before it is used", self._folder / stem, error)
        if numbers:
            raise DataError(f"{self._folder}: all checkpoints are damaged; train anew.")
        return None

    def clear(self) -> None:
        """Removes the checkpoints of a finished run."""
        for pattern in ("checkpoint-*", "best-*.safetensors", ".checkpoint-*", ".best-*"):
            for path in self._folder.glob(pattern):
                path.unlink(missing_ok=True)

    def _read(self, stem: str) -> State:
        manifest = json.loads((self._folder / f"{stem}.json").read_text(encoding="utf-8"))
        for name, checksum in manifest["files"].items():
            if not _NAME.fullmatch(name):
                raise ValueError(f"it names the file {name!r}")
            with (self._folder / name).open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != checksum:
                    raise ValueError(f"the checksum of {name} is wrong")
        tensors, plain = _load(self._folder / f"{stem}.safetensors")
        best: tuple[Any, ...] = ()
        if name := manifest.get("best"):
            self._best[name] = manifest["files"][name]  # so its checksum is the one that was checked above
            weights, _ = _load(self._folder / name)
            best = tuple(weights[key].numpy() for key in sorted(weights))
        return State(int(manifest["epoch"]), int(manifest["step"]), tensors, plain, best)

    def _write(self, name: str, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> str:
        content = safetensors.torch.save(dict(tensors), {"plain": json.dumps(plain)})
        with atomic(self._folder / name) as temporary:
            temporary.write_bytes(content)
        return hashlib.sha256(content).hexdigest()

    def _numbers(self) -> list[int]:
        return [int(match[1]) for path in self._folder.glob("checkpoint-*.json") if (match := _NUMBER.match(path.name))]

    def _prune(self) -> None:
        kept = sorted(self._numbers())[-KEPT:]
        wanted: set[str] = set()
        for number in kept:
            path = self._folder / f"checkpoint-{number:08d}.json"
            wanted.add(path.name)
            try:
                wanted |= set(json.loads(path.read_text(encoding="utf-8"))["files"])
            except (OSError, ValueError, KeyError):
                continue  # damaged: what it named goes, too
        for path in [*self._folder.glob("checkpoint-*"), *self._folder.glob("best-*"), *self._folder.glob(".best-*"),
                     *self._folder.glob(".checkpoint-*")]:  # fmt: skip
            if path.name not in wanted:  # hidden ones are of a process that was killed: nobody else writes here
                path.unlink(missing_ok=True)


def _load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with safe_open(path, framework="pt") as content:
        plain = json.loads((content.metadata() or {}).get("plain", "{}"))
        return {name: content.get_tensor(name) for name in content.keys()}, plain  # noqa: SIM118
