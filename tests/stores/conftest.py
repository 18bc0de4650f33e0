"""An S3 server on this machine, and its buckets."""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from s3_server import S3, serving_s3

from kcv.stores import client


@pytest.fixture(scope="session")
def server() -> Iterator[S3]:
    pytest.importorskip("moto", reason="needs the package moto[s3]")
    with serving_s3() as server:
        yield server


@pytest.fixture
def s3(server: S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[S3]:
    """The server, without faults, and an environment that leads there; between tries there is no wait."""
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN", "AWS_NO_SIGN_REQUEST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.address)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAMOTO")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3t")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "no such file"))
    monkeypatch.setattr(client, "FIRST_WAIT", 0.001)
    server.heal()
    yield server
    server.heal()


@pytest.fixture
def reconnect() -> Iterator[Callable[[], None]]:
    """Returns a function that makes the next request use the environment as it is then."""
    yield client._client.cache_clear
    client._client.cache_clear()


@pytest.fixture(scope="session")
def few(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a few of the images: 4 for training, 2 for validation and 2 for the test of each class."""
    folder = tmp_path_factory.mktemp("few")
    for file in sorted(images.rglob("*.png")):
        if int(file.stem) < (4 if file.parent.parent.name == "train" else 2):
            target = folder / file.relative_to(images)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
    return folder


@pytest.fixture(scope="session")
def bucket(server: S3, few: Path) -> str:
    """A bucket with the images of `few`, as class folders, label files, Parquet and WebDataset shards.

    Nothing in it may be changed.
    """
    name = server.bucket()
    files = sorted(few.rglob("*.png"))
    for file in files:
        server.put(name, f"photos/{file.relative_to(few).as_posix()}", file.read_bytes())
    rows = [(file.relative_to(few).as_posix(), file.parent.name, file.parent.parent.name) for file in files]
    table = "path,label,split\n" + "".join(f"{','.join(row)}\n" for row in rows)
    server.put(name, "photos/labels.csv", table.encode())
    server.put(name, "lists/labels.csv", table.replace("\n", f"\ns3://{name}/photos/", len(rows)).encode())
    for split in ("train", "val", "test"):
        mine = [file for file in files if file.parent.parent.name == split]
        server.put(name, f"parquet/{split}-0.parquet", parquet(mine))
        server.put(name, f"shards/{split}-0.tar", shard(mine))
    return name


def parquet(files: list[Path]) -> bytes:
    table = pa.table(
        {
            "image": [{"bytes": file.read_bytes(), "path": file.name} for file in files],
            "label": [file.parent.name for file in files],
        }
    )
    stream = io.BytesIO()
    pq.write_table(table, stream, row_group_size=5)
    return stream.getvalue()


def shard(files: list[Path]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for number, file in enumerate(files):
            for suffix, content in (("png", file.read_bytes()), ("cls", file.parent.name.encode())):
                member = tarfile.TarInfo(f"{number:04}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()
