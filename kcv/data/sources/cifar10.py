"""CIFAR-10 (Krizhevsky, 2009): 60,000 images of 32x32 in 10 classes, found under KCV_DATA_DIR or downloaded once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from kcv.common import untrusted
from kcv.common.files import expand_user
from kcv.common.text import is_printable
from kcv.common.untrusted import refusing
from kcv.data.sources import NamedSource, register
from kcv.errors import DataError, OutputError, first_line

if TYPE_CHECKING:
    from kcv.common.download import OpenBar
    from kcv.data.dataset import Samples, Source

_NAME: Final = "cifar10"
URL: Final = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
CHECKSUM: Final = "sha256:6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
BYTES: Final = 170_498_071
ARCHIVE: Final = "cifar-10-python.tar.gz"
FOLDER: Final = "cifar-10-batches-py"
SIZE: Final = 32

CLASS_NAMES: Final = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip

_BATCHES: Final = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}
_META: Final = "batches.meta"

_MOST_BYTES: Final = 128 * 2**20
"""Per batch: an original one has 31 MB; one that an old Python rewrote as text has three times as many."""
_MOST_IMAGES: Final = 10_000
_MOST_CLASSES: Final = 1_000


def open_source(
    open_bar: OpenBar | None = None, *, url: str = URL, checksum: str = CHECKSUM, size: int = BYTES
) -> Source:
    """Finds CIFAR-10, or downloads it, and reads its 50,000 train and 10,000 test images.

    The places are searched in this order: `cifar10/*.parquet`, the folder `cifar-10-batches-py` and its archive under
    KCV_DATA_DIR (the latter two also under its `cifar10/`), the cache, the network.

    Args:
        open_bar: creates the progress bar of a download; None shows nothing.
        url: the URL of the archive.
        checksum: the checksum of the archive, as for `kcv.common.download.download`.
        size: the size of the archive, in bytes.

    Raises:
        DataError: it was not found and cannot be downloaded (the message says which file to put where), or is damaged.
    """
    from kcv.common.download import cache_dir, download, has_checksum, writable
    from kcv.data.dataset import Source
    from kcv.data.parquet import source as parquet

    roots = _roots()
    for root in roots:
        if list((root / _NAME).glob("*.parquet")):
            source = parquet.open_source(root / _NAME, name=_NAME)
            return Source(_NAME, source.class_names, source.splits, image_size=SIZE)
        for folder in (root / FOLDER, root / _NAME / FOLDER, root / _NAME):
            if os.path.isfile(folder / _BATCHES["train"][0]):
                return _read_batches(folder)
    for root in roots:
        for archive in (root / ARCHIVE, root / _NAME / ARCHIVE):
            if os.path.isfile(archive):
                with refusing(archive, DataError):
                    sound = has_checksum(archive, checksum)
                if not sound:
                    raise DataError(f"{archive}: its checksum is wrong; delete it and put a whole {ARCHIVE} there.")
                return _read_batches(_unpack(archive, writable(cache_dir())))
    cache = writable(cache_dir())
    archive = cache / ARCHIVE
    try:
        download(url, archive, checksum=checksum, size=size, open_bar=open_bar)
    except (DataError, OutputError) as error:
        target = os.environ.get("KCV_DATA_DIR") or "a folder"
        raise DataError(
            f"{_NAME} is not on this machine: {error} Put {ARCHIVE} (from {URL}), the folder {FOLDER} or "
            f"{_NAME}/*.parquet into {target} and set KCV_DATA_DIR to it."
        ) from error
    folder = _unpack(archive, cache)
    archive.unlink(missing_ok=True)
    return _read_batches(folder)


def _open() -> Source:
    from kcv.common.progress import Progress

    return open_source(Progress)


def _roots() -> list[Path]:
    from kcv.common.download import cache_dir

    roots = [cache_dir()]
    if given := os.environ.get("KCV_DATA_DIR"):
        root = expand_user(given)
        if not os.path.isdir(root):
            raise DataError(f"KCV_DATA_DIR={given} is not a folder, or may not be read.")
        roots.insert(0, root)
    return roots


def _unpack(archive: Path, cache: Path) -> Path:
    """Unpacks the batches, and nothing else, into a cache; the folder appears there atomically."""
    import shutil
    import tarfile
    import tempfile

    folder = cache / FOLDER
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".unpack-"))
    except OSError as error:
        raise OutputError(f"cannot write to {folder.parent}: {error.strerror}; set KCV_CACHE_DIR.") from error
    try:
        with tarfile.open(archive) as tar:
            for name in (*_BATCHES["train"], *_BATCHES["test"], _META):
                # Only these names are written, regardless of the paths in the archive.
                stream = tar.extractfile(f"{FOLDER}/{name}")
                if stream is None:
                    raise DataError(f"{archive}: {name} in it is not a file.")
                with stream, (temporary / name).open("wb") as target:
                    shutil.copyfileobj(stream, target)
        temporary.chmod(0o755)
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process has unpacked it meanwhile
                raise
    except (tarfile.TarError, KeyError, EOFError, OSError) as error:
        raise DataError(f"{archive}: cannot be unpacked into {folder.parent} ({first_line(error)}).") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _read_batches(folder: Path) -> Source:
    from kcv.data.dataset import Source

    names: tuple[str, ...] = CLASS_NAMES
    if os.path.lexists(folder / _META):
        names = _names(folder / _META) or CLASS_NAMES
    splits = {split: _read_split(folder, split, files, len(names)) for split, files in _BATCHES.items()}
    return Source(_NAME, names, splits, image_size=SIZE)


def _names(path: Path) -> tuple[str, ...]:
    """Returns the class names of a `batches.meta`."""
    stored = _unpickle(path).get("label_names", [])
    if type(stored) not in (list, tuple) or len(stored) > _MOST_CLASSES:
        raise DataError(f"{path}: its label_names are no list of at most {_MOST_CLASSES} names.")
    names = tuple(name.decode("utf-8", "replace") if type(name) is bytes else name for name in stored)
    if not all(type(name) is str and name and is_printable(name) for name in names) or len(set(names)) != len(names):
        raise DataError(f"{path}: its label_names are no names that differ.")
    return names


def _read_split(folder: Path, split: str, files: tuple[str, ...], classes: int) -> Samples:
    import numpy as np

    from kcv.data.dataset import Samples

    arrays, labels = [], []
    for file in files:
        batch = _unpickle(folder / file)
        pixels: Any = batch.get("data")
        stored: Any = batch.get("labels")
        if (
            not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.shape[1] != 3 * SIZE * SIZE
            or not isinstance(stored, list | tuple) or len(stored) != len(pixels)
            or not all(type(label) is int and 0 <= label < classes for label in stored)
        ):  # fmt: skip
            raise DataError(f"{folder / file}: is not a CIFAR-10 batch (uint8 'data' [n, 3072] and 'labels').")
        if len(pixels) > _MOST_IMAGES:
            raise DataError(f"{folder / file}: has more than {_MOST_IMAGES:,} images.")
        arrays.append(pixels)
        labels.append(np.array(stored, np.int64))
    images = np.concatenate(arrays).reshape(-1, 3, SIZE, SIZE).transpose(0, 2, 3, 1)
    images = np.ascontiguousarray(images)
    return Samples(list(images), np.concatenate(labels), [f"{split}/{i}" for i in range(len(images))])


def _unpickle(path: Path) -> dict[str, Any]:
    """Reads a dict of plain values and uint8 arrays; texts in the originals, written by Python 2, arrive as bytes."""
    from kcv.common.pickles import plain

    content = untrusted.read_bytes(path, _MOST_BYTES, DataError)
    with untrusted.refusing(path, DataError, "cannot be read as a CIFAR-10 batch"):
        values = plain.loads(content)
        if type(values) is not dict:
            raise DataError(f"{path}: is not a CIFAR-10 batch.")
        return {key.decode() if isinstance(key, bytes) else key: value for key, value in values.items()}


register(NamedSource(_NAME, "60,000 images of 32x32 in 10 classes; found, or downloaded once", _open))
