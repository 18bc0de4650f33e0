"""The samples of a shard: the members of one key, of which one is the image and one tells the label."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from kcv.common.text import shortened
from kcv.common.untrusted import parse_json
from kcv.data.archives import tar_index
from kcv.data.archives.members import MOST_IMAGE_BYTES, Member
from kcv.data.classes import MOST_NAME
from kcv.data.label_files.columns import LABEL_NAMES
from kcv.data.sources import SourceOptions
from kcv.data.webdataset.shards import TarShard
from kcv.errors import DataError
from kcv.images import EXTENSIONS
from kcv.images.files import is_clutter

_MOST_LABEL_BYTES: Final = 4 * MOST_NAME
_MOST_JSON_BYTES: Final = 2**20
_CLASS: Final = "cls"
_KEYS: Final = ("cls", *LABEL_NAMES)
"""Keys of labels in `key.json`."""


@dataclass(frozen=True)
class TarSample:
    """An image in a shard, with its label.

    Attributes:
        key: the name of its members up to their first dot.
        image: its image.
        label: its label as text.
    """

    key: str
    image: Member
    label: str


@dataclass
class _Open:
    """The members of the key that is being read.

    Attributes:
        key: the key.
        images: by extension, the members that are images.
        texts: by extension, the content of those that may tell the label.
    """

    key: str
    images: dict[str, Member] = field(default_factory=dict)
    texts: dict[str, bytes] = field(default_factory=dict)


def samples(shard: TarShard, options: SourceOptions) -> Iterator[TarSample]:
    """Yields the samples of a shard, in order; members without an image of their key are passed over.

    Args:
        shard: the shard.
        options: `image_column` is the extension of the image if a key has several; `label_column` that of the label,
            or its key in `key.json`.

    Raises:
        DataError: the shard is damaged or cannot be reached; an image has no label, or several; a label is no name or
            whole number.
    """
    current: _Open | None = None
    with shard.open() as stream:
        for member, at in tar_index.members(stream, shard.name):
            key, extension = _key(member.name)
            if is_clutter(member.name.rpartition("/")[2]) or not extension:
                continue
            if current is None or current.key != key:
                yield from _finished(current, shard, options)
                current = _Open(key)
            _add(current, member, extension, at, shard, options)
    yield from _finished(current, shard, options)


def holds_samples(shard: TarShard, most: int) -> bool:
    """Returns whether an image among the first `most` members of a shard has a label beside it."""
    images: set[str] = set()
    labels: set[str] = set()
    with shard.open() as stream:
        for number, (member, _) in enumerate(tar_index.members(stream, shard.name)):
            key, extension = _key(member.name)
            if f".{extension.rpartition('.')[2]}" in EXTENSIONS:
                images.add(key)
            elif extension.rpartition(".")[2] in (_CLASS, "json"):
                labels.add(key)
            if number >= most:
                break
    return not images.isdisjoint(labels)


def _key(name: str) -> tuple[str, str]:
    """Returns the key and the extension of a member: `a/b` and `seg.png` of `a/b.seg.png`."""
    folder, sign, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return f"{folder}{sign}{stem}", extension.lower()


def _add(current: _Open, member: Member, extension: str, at: Any, shard: TarShard, options: SourceOptions) -> None:
    where = f"{shard.name}: {shortened(member.name)}"
    if extension in current.images or extension in current.texts:
        raise DataError(f"{where} is there twice.")
    if f".{extension.rpartition('.')[2]}" in EXTENSIONS:
        if member.size > MOST_IMAGE_BYTES:
            raise DataError(f"{where}: has {member.size:,} bytes; {MOST_IMAGE_BYTES:,} are allowed.")
        current.images[extension] = member
    elif extension in (_CLASS, "json", options.label_column):
        most = _MOST_JSON_BYTES if extension == "json" else _MOST_LABEL_BYTES
        if member.size > most:
            raise DataError(f"{where}: has {member.size:,} bytes; {most:,} are allowed of a label.")
        content = at.read(member.size)
        if len(content) != member.size:
            raise DataError(f"{shard.name}: is cut off.")
        current.texts[extension] = content


def _finished(current: _Open | None, shard: TarShard, options: SourceOptions) -> Iterator[TarSample]:
    """Yields the sample of a key, if it has an image."""
    if current is None or not current.images:
        return
    where = f"{shard.name}: {shortened(current.key)}"
    image = _image(current.images, where, options)
    yield TarSample(current.key, image, _label(current.texts, where, options))


def _image(images: Mapping[str, Member], where: str, options: SourceOptions) -> Member:
    if options.image_column is not None and (options.firm or options.image_column in images):
        if options.image_column not in images:
            raise DataError(f"{where} has no .{shortened(options.image_column, 60)} (data.image_column).")
        return images[options.image_column]
    if len(images) > 1:
        found = ", ".join(sorted(images)[:5])
        raise DataError(f"{where} has several images: {found}; data.image_column=EXTENSION names one.")
    return next(iter(images.values()))


def _label(texts: Mapping[str, bytes], where: str, options: SourceOptions) -> str:
    named = options.label_column
    if named is not None and named in texts:
        return _text(texts[named], where)
    if _CLASS in texts and (named is None or not options.firm):
        return _text(texts[_CLASS], where)
    if "json" not in texts:
        what = f".{shortened(named, 60)}" if named is not None and options.firm else ".cls or .json"
        raise DataError(f"{where} has no label: there is no {what} beside its image.")
    values = parse_json(texts["json"], f"{where}.json", DataError)
    if not isinstance(values, dict):
        return _value(values, where)
    if named is not None and named in values:
        return _value(values[named], where)
    key = None if named is not None and options.firm else next((key for key in _KEYS if key in values), None)
    if key is None:
        known = ", ".join(shortened(each, 60) for each in list(values)[:12]) or "nothing"
        what = f"no {shortened(named, 60)!r} (data.label_column)" if named is not None else "no 'label' or 'cls'"
        raise DataError(f"{where}.json has {what}, only {known}; data.label_column=KEY names it.")
    return _value(values[key], where)


def _text(content: bytes, where: str) -> str:
    try:
        text = content.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise DataError(f"{where}: its label is not UTF-8 text.") from None
    if not text or len(text) > MOST_NAME:
        raise DataError(f"{where}: its label is {'empty' if not text else f'longer than {MOST_NAME:,} characters'}.")
    return text


def _value(value: object, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise DataError(f"{where}: its label must be a name or a whole number, not {type(value).__name__}.")
    return _text(str(value).encode(errors="surrogatepass"), where)
