"""Data behind URLs: what is secret in them is in no name, no message and no file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import pytest

from kcv.config import Config
from kcv.data.parquet import shards
from kcv.errors import DataError
from kcv.tracking import config_without_credentials

SIGNED = "http://s3cr3t@host/train/x.parquet?X-Amz-Signature=s3cr3t"


class Service:
    """A file system that knows one file, or nothing."""

    def __init__(self, found: list[str]) -> None:
        self.found = found
        self.asked: list[str] = []

    def glob(self, pattern: str) -> list[str]:
        self.asked.append(pattern)
        return self.found


def test_a_signed_url_names_one_file_and_shows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service([SIGNED])
    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda url: (service, url))
    (shard,) = shards.remote_shards(SIGNED)
    assert service.asked == [shard.place] == [SIGNED]
    assert (shard.name, shard.names) == ("http://host/train/x.parquet", ("x.parquet", "train"))


@pytest.mark.parametrize("fault", [None, OSError(f"403, url='{SIGNED}'")])
def test_a_url_that_cannot_be_reached_is_told_without_its_secrets(
    monkeypatch: pytest.MonkeyPatch, fault: Exception | None
) -> None:
    def reach(url: str) -> Any:
        if fault:
            raise fault
        return Service([]), url

    monkeypatch.setattr(fsspec.core, "url_to_fs", reach)
    with pytest.raises(DataError) as caught:
        shards.remote_shards(SIGNED)
    assert "s3cr3t" not in str(caught.value)
    assert "name it whole again" not in str(caught.value)
    with pytest.raises(DataError, match="name it whole again"):
        shards.remote_shards("http://host/train/x.parquet")


def test_a_configuration_is_written_down_without_secrets() -> None:
    config = Config.load(data=SIGNED, tracking="postgresql://u:s3cr3t/x@h/db")
    shown = config_without_credentials(config)
    assert "s3cr3t" not in shown.to_yaml()
    assert shown.data.source == "http://host/train/x.parquet"
    assert config.data.source == SIGNED
    plain = Config.load(data=str(Path("a@b?c=d")), tracking="none")
    assert config_without_credentials(plain) == plain
