"""Repositories of Hugging Face by their short name, `hf:owner/name`: the Parquet files that its hub makes of each.

The hub converts data sets of other formats, too (its branch `refs/convert/parquet`), and lists the files by
configuration and split at `/api/datasets/OWNER/NAME/parquet` (Hub API, "Get the list of auto-converted Parquet files").
"""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Mapping
from typing import Any, Final

from kcv.common.download import fetch
from kcv.common.text import shortened
from kcv.common.untrusted import parse_json, refusing
from kcv.data.dataset import Source
from kcv.data.folder_tree.split_folders import splits_of
from kcv.data.parquet.shards import Shard
from kcv.data.parquet.source import open_shards
from kcv.data.sources import NO_OPTIONS, SourceOptions
from kcv.errors import DataError

ENDPOINT: Final = "https://huggingface.co"
"""The hub, unless HF_ENDPOINT names another one."""

_SHORT: Final = re.compile(r"hf:([\w.-]{1,96})/([\w.-]{1,96})(?:/([\w.-]{1,200}))?")
_MOST_BYTES: Final = 8 * 2**20
_MOST_SECONDS: Final = 60.0
_MOST_SHOWN: Final = 12


def open_repository(named: str, options: SourceOptions = NO_OPTIONS) -> Source:
    """Opens a repository of Hugging Face; its images stay there until they are needed.

    Args:
        named: `hf:owner/name` or `hf:owner/name/configuration`.
        options: the columns, and the configuration where there are several.

    Raises:
        DataError: the name is none of these, there is no such repository, its hub cannot be reached, it has several
            configurations and none was named, or its files cannot be read (`kcv.data.parquet.source`).
    """
    import fsspec

    match = _SHORT.fullmatch(named)
    if match is None:
        raise DataError(f"{shortened(named)}: write hf:owner/name or hf:owner/name/configuration.")
    owner, repository, configuration = match.groups()
    if options.firm and options.config is not None:
        if configuration not in (None, options.config):
            raise DataError(f"{named}: names another configuration than data.config={shortened(options.config)}.")
        configuration = options.config
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or ENDPOINT
    files = _configuration(_listed(f"{endpoint}/api/datasets/{owner}/{repository}/parquet"), configuration, named)
    with refusing(named, DataError, "cannot be reached"):
        system = fsspec.core.url_to_fs(endpoint)[0]
    shards = [
        Shard(url, url, system, (split,) if split else ())
        for split, urls in _by_split(files, named).items()
        for url in urls
    ]
    if not shards:
        raise DataError(f"{named}: has no Parquet files.")
    if odd := next((shard.place for shard in shards if not _is_below(shard.place, endpoint)), None):
        raise DataError(f"{named}: its hub names a file elsewhere, {shortened(odd)}, which is not read.")
    return open_shards(shards, named, SourceOptions(options.image_column, options.label_column, firm=options.firm))


def _listed(url: str) -> Mapping[str, Mapping[str, list[str]]]:
    """Returns the URLs of the Parquet files of a repository by configuration and split."""
    content = fetch(url, most=_MOST_BYTES, seconds=_MOST_SECONDS)
    answer: Any = parse_json(content, url, DataError, otherwise="is not answered with JSON")
    if not isinstance(answer, dict) or not all(map(_is_configuration, answer.values())):
        raise DataError(f"{url}: is not answered with lists of Parquet files.")
    return answer


def _is_configuration(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(urls, list) and all(isinstance(url, str) for url in urls) for urls in value.values()
    )


def _configuration(
    answer: Mapping[str, Mapping[str, list[str]]], wanted: str | None, named: str
) -> Mapping[str, list[str]]:
    known = ", ".join(shortened(each, 60) for each in list(answer)[:_MOST_SHOWN])
    known += ", ..." if len(answer) > _MOST_SHOWN else ""
    if wanted is None and len(answer) == 1:
        return next(iter(answer.values()))
    if wanted is None:
        what = f"has several configurations: {known}; name one: data.config=NAME" if answer else "has no Parquet files"
        raise DataError(f"{named}: {what}.")
    if wanted not in answer:
        raise DataError(f"{named}: has no configuration {shortened(wanted)!r}; it has {known or 'none'}.")
    return answer[wanted]


def _by_split(files: Mapping[str, list[str]], named: str) -> Mapping[str | None, list[str]]:
    """Returns the URLs by split, under None if the only split is not named as one."""
    found = splits_of(files)
    if len(set(found.values())) < len(found):
        raise DataError(f"{named}: has two splits for one of train, val and test: {', '.join(found)}.")
    if found:
        return {split: files[written] for written, split in found.items()}
    if len(files) == 1:
        return {None: next(iter(files.values()))}
    shown = ", ".join(shortened(each, 60) for each in list(files)[:_MOST_SHOWN]) or "none"
    raise DataError(f"{named}: has no split train; its splits: {shown}.")


def _is_below(url: str, endpoint: str) -> bool:
    """Returns whether a URL is one of the hub, so that its answer sends nobody elsewhere."""
    try:
        ours, theirs = urllib.parse.urlsplit(endpoint), urllib.parse.urlsplit(url)
        return ours[:2] == theirs[:2] and theirs.username is None
    except ValueError:
        return False
