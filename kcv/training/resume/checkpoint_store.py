"""Checkpoints on disk: written atomically, with checksums; the last two are kept.

A checkpoint is `checkpoint-N.safetensors`, the state, and `checkpoint-N.json`, which is written last and contains the
SHA-256 of each file and of its own content. The weights of the best epoch are stored separately in
`best-E.safetensors`, written once and kept while a checkpoint refers to them. safetensors files contain only numbers
and cannot run code.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from kcv.common.files import atomic
from kcv.common.untrusted import inside, opened, refusing
from kcv.errors import DataError
from kcv.training.resume.manifest import Manifest
from kcv.training.resume.state import State

_log = logging.getLogger(__name__)

KEPT = 2
_NUMBER = re.compile(r"checkpoint-(\d{8})\.json")


class CheckpointStore:
    """The checkpoints of one run.

    Args:
        folder: the store's own folder; created if missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._next = max(self._numbers(), default=0) + 1
        self._best: dict[str, str] = {}  # checksums of the best weights that this process has written or verified

    def save(self, state: State) -> None:
        """Writes a checkpoint, then removes those that are no longer needed.

        Raises:
            OutputError: it cannot be written; earlier checkpoints are unchanged.
        """
        stem = f"checkpoint-{self._next:08d}"
        files: dict[str, str] = {}
        best: str | None = None
        if state.best:
            best_epoch = state.plain["callbacks"]["best"]["best_epoch"]
            name = f"best-{best_epoch:08d}.safetensors"
            if name not in self._best or not (self._folder / name).is_file():
                weights = {f"{i:05d}": torch.from_numpy(array.copy()) for i, array in enumerate(state.best)}
                self._best[name] = self._write(name, weights, {})
            best = name
            files[name] = self._best[name]
        name = f"{stem}.safetensors"
        files[name] = self._write(name, state.tensors, state.plain)
        Manifest(epoch=state.epoch, step=state.step, best=best, files=files).write(self._folder / f"{stem}.json")
        self._next += 1
        self._prune()

    def newest(self, check: Callable[[State], None] | None = None) -> State | None:
        """Returns the newest intact checkpoint, or None if there are no checkpoints.

        Args:
            check: raises DataError for a state that must not be used; the previous checkpoint is then tried.

        Raises:
            DataError: all checkpoints are damaged or unreadable.
        """
        numbers = sorted(self._numbers(), reverse=True)
        for number in numbers:
            stem = f"checkpoint-{number:08d}"
            try:
                state = self._read(stem)
                if check is not None:
                    check(state)
                return state
            except DataError as error:
                reason = str(error).removeprefix(f"{self._folder / stem}")
                _log.warning("%s is damaged (%s); the one before it is used", self._folder / stem, reason)
        # An unreadable file may be intact: starting from scratch would throw it away.
        if closed := next((path for path in sorted(self._folder.glob("*")) if not os.access(path, os.R_OK)), None):
            raise DataError(f"{closed}: cannot be read: Permission denied; there is no other whole checkpoint.")
        if numbers:
            raise DataError(f"{self._folder}: all checkpoints are damaged; train again from the start.")
        return None

    def clear(self) -> None:
        """Removes the checkpoints of a finished run."""
        for pattern in ("checkpoint-*", "best-*.safetensors", ".checkpoint-*", ".best-*"):
            for path in self._folder.glob(pattern):
                path.unlink(missing_ok=True)

    def _read(self, stem: str) -> State:
        manifest = Manifest.read(self._inside(f"{stem}.json"))
        for name, checksum in manifest.files.items():
            path = self._inside(name)
            with opened(path, DataError) as stream, refusing(path, DataError):
                if hashlib.file_digest(cast(BufferedReader, stream), "sha256").hexdigest() != checksum:
                    raise DataError(f"the checksum of {name} is wrong")
        tensors, plain = _load(self._folder / f"{stem}.safetensors")
        best: tuple[Any, ...] = ()
        if (kept := manifest.best) is not None:
            self._best[kept] = manifest.files[kept]  # its checksum was verified above
            weights, _ = _load(self._folder / kept)
            best = tuple(weights[key].numpy() for key in sorted(weights))
        return State(manifest.epoch, manifest.step, tensors, plain, best)

    def _inside(self, name: str) -> Path:
        return inside(self._folder, name, error=DataError)

    def _write(self, name: str, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> str:
        content = safetensors.torch.save(dict(tensors), {"plain": json.dumps(plain)})
        with atomic(self._folder / name) as temporary:
            temporary.write_bytes(content)
        return hashlib.sha256(content).hexdigest()

    def _numbers(self) -> list[int]:
        return [
            int(match[1]) for path in self._folder.glob("checkpoint-*.json") if (match := _NUMBER.fullmatch(path.name))
        ]

    def _prune(self) -> None:
        kept = sorted(self._numbers())[-KEPT:]
        wanted: set[str] = set()
        for number in kept:
            path = self._folder / f"checkpoint-{number:08d}.json"
            wanted.add(path.name)
            with contextlib.suppress(DataError):  # if it is damaged, the files it named are removed too
                wanted |= set(Manifest.read(path).files)
        for path in [*self._folder.glob("checkpoint-*"), *self._folder.glob("best-*"), *self._folder.glob(".best-*"),
                     *self._folder.glob(".checkpoint-*")]:  # fmt: skip
            if path.name not in wanted:  # hidden files belong to a killed process: no other process writes here
                path.unlink(missing_ok=True)


def _load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with refusing(path, DataError), safe_open(path, framework="pt") as content:
        # Not strict JSON: a loss may be NaN, and the history grows with the number of epochs.
        plain = json.loads((content.metadata() or {}).get("plain", "{}"))
        tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
    if not isinstance(plain, dict):
        raise DataError(f"{path}: its values are no object")
    return tensors, plain
