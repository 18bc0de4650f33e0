"""What people say about answers: each image is filed under the class that it shows, as a data set."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import logging
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kcv import images
from kcv.common.files import atomic, make_folder
from kcv.errors import ImageError, OutputError, first_line
from kcv.serving.class_folders import ClassFolders, cost
from kcv.serving.problems import Problem, busy, unreadable

_log = logging.getLogger(__name__)

_MOST_WAITING = 16
"""Images that wait to be filed; further ones are refused."""
_COUNT_SECONDS = 60.0
"""A full folder is counted again after this time: the operator may have taken images away."""
_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


class Feedback:
    """Files images as `FOLDER/<class>/<SHA-256>.<suffix>`; with several models as `FOLDER/<model>/<class>/...`.

    The bytes are kept as they were sent. An image lies in one class: the last word counts.

    Args:
        folder: the folder; made if it is missing.
        models: the class names of each model, by its name.
        most_bytes: the most bytes of all filed images.
        max_pixels: the most pixels of an image.

    Raises:
        UsageError: class names that cannot be folders of a data set.
        OutputError: the folder cannot be read or written.
    """

    def __init__(self, folder: Path, models: Mapping[str, Sequence[str]], *, most_bytes: int, max_pixels: int) -> None:
        self._most, self._max_pixels = most_bytes, max_pixels
        roots = {name: folder / name if len(models) > 1 else folder for name in models}
        self._folders = {name: ClassFolders(roots[name], class_names) for name, class_names in models.items()}
        try:
            make_folder(folder)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            self._count()
        except OSError as error:
            raise OutputError(f"--feedback: cannot write {folder}: {error.strerror or first_line(error)}") from None
        # One thread: it alone changes the folders, and no more than one image is decoded for this at a time.
        self._thread = ThreadPoolExecutor(1, "kcv-feedback")
        self._waiting = 0

    async def file(self, model: str, content: bytes, class_name: str) -> None:
        """Files an image; does nothing where it lies there already. Called in the thread of the event loop.

        Args:
            model: the name of the model.
            content: the encoded image.
            class_name: the class that it shows.

        Raises:
            Problem: 400, the model has no such class; 415 or 422, the image cannot be read; 503, too many images wait;
                507, there is no room.
        """
        if class_name not in self._folders[model].class_names:
            raise Problem(400, f"class_name: {model} has no class {class_name!r}.")
        if self._waiting >= _MOST_WAITING:
            raise busy("too many images wait to be filed; try again.")
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._thread, self._file, self._folders[model], content, class_name)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Lets the thread end after what it has begun."""
        self._thread.shutdown(wait=False)

    def _file(self, folders: ClassFolders, content: bytes, class_name: str) -> None:
        name = hashlib.sha256(content).hexdigest() + self._suffix(content)
        try:
            self._put(folders, name, content, class_name)
        except (OSError, OutputError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            reason = getattr(cause, "strerror", None) or type(cause).__name__
            _log.error("feedback cannot be written: %s", reason)  # without the path, which tells of the request
            is_full = getattr(cause, "errno", None) in _FULL
            raise Problem(507 if is_full else 500, "the image cannot be filed.") from None

    def _suffix(self, content: bytes) -> str:
        """Returns the suffix of an image's format, after decoding all of it."""
        try:
            found = images.examine(content, max_pixels=self._max_pixels).format
        except ImageError as error:
            raise unreadable(error) from None
        assert found is not None  # bytes have a format
        return images.SUFFIXES[found][0]

    def _put(self, folders: ClassFolders, name: str, content: bytes, class_name: str) -> None:
        target, before = folders.path(class_name, name), folders.class_of(name)
        if before is not None and not folders.path(before, name).is_file():
            self._count()  # somebody has tidied up
            before = folders.class_of(name)
        if before == class_name:
            return
        if before is None:
            self._make_room(cost(len(content)))
            with atomic(target) as temporary:
                temporary.write_bytes(content)
            self._held += cost(len(content))
        else:
            old = folders.path(before, name)
            make_folder(target.parent)
            os.replace(old, target)
            with contextlib.suppress(OSError):  # an empty folder would be a class without images
                old.parent.rmdir()
        folders.note(class_name, name)

    def _make_room(self, size: int) -> None:
        """Raises Problem where a file of a size would be too much."""
        if self._held + size > self._most and time.monotonic() - self._counted > _COUNT_SECONDS:
            self._count()
            if self._held + size > self._most:
                _log.warning("feedback has filled its %d MB: further images are refused", self._most // 10**6)
        if self._held + size > self._most:
            raise Problem(507, "there is no room for more feedback.")

    def _count(self) -> None:
        self._held = sum(folders.count() for folders in self._folders.values())
        self._counted = time.monotonic()
