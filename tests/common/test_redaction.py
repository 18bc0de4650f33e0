from __future__ import annotations

import shlex

import pytest

from kcv.common.redaction import command, data_without_credentials, hide_credentials, without_credentials

URIS = [
    *(f"{scheme}://u:{password}@h/db" for scheme in ("postgresql", "mysql+pymysql", "postgresql+psycopg2", "mssql")
      for password in ("s3cr3t", "x/s3cr3t", "x#s3cr3t", "x?s3cr3t", "x@s3cr3t", "s3cr3t/?#@:y", "x&s3cr3t=1")),
    *(f"http://u:{password}@h:5000/x" for password in ("s3cr3t", "x/s3cr3t", "x#s3cr3t", "x?s3cr3t", "x@s3cr3t")),
    "http://s3cr3t@h:5000", "http://h:5000/?api_key=s3cr3t", "http://h:5000/?a=b&sig=s3cr3t", "http://h/#token=s3cr3t",
    "postgresql://h/db?user=a&password=s3cr3t&b=c", "postgresql://h/db?PASSWORD=s3cr3t",
]  # fmt: skip


@pytest.mark.parametrize("uri", URIS)
def test_no_secret_of_a_store_is_left(uri: str) -> None:
    assert "s3cr3t" not in without_credentials(uri)
    for words in (["kcv", "train", f"--tracking={uri}"], ["kcv", "train", "--tracking", uri, "--name=a"]):
        assert "s3cr3t" not in hide_credentials(shlex.join(words))
        assert "s3cr3t" not in command(words)
        assert command(words).startswith("kcv train ")
    assert "s3cr3t" not in hide_credentials(f"(psycopg2.OperationalError) cannot connect to '{uri}': no")
    assert without_credentials(without_credentials(uri)) == without_credentials(uri)


@pytest.mark.parametrize("password", ["a b'c\"s3cr3t", "s3cr3t it's"])
def test_a_word_of_a_command_may_hold_anything(password: str) -> None:
    assert "s3cr3t" not in command(["kcv", "train", f"--tracking=postgresql://u:{password}@h/db"])
    assert "s3cr3t" not in command(["kcv", "train", f"--tracking=http://u:{password}@h/db"])
    assert "s3cr3t" not in without_credentials(f"postgresql://u:{password}@h/db")


@pytest.mark.parametrize(
    ("source", "kept"),
    [
        ("https://host/x.parquet", "https://host/x.parquet"),
        ("https://me@host:80/x.parquet", "https://host:80/x.parquet"),
        ("https://host/x.parquet?X-Amz-Signature=abc&f=.parquet", "https://host/x.parquet"),
        ("https://host/x.parquet?sig=a/b@c", "https://host/x.parquet"),
        ("https://me:a/b@host/x.parquet#token=a", "https://host/x.parquet"),
        ("s3://key@bucket/train-?.parquet", "s3://bucket/train-?.parquet"),
        ("s3://bucket/a.parquet?token=b", "s3://bucket/a.parquet"),
        ("hf://datasets/owner/name@main/data", "hf://datasets/owner/name@main/data"),
        ("abfs://container@account.dfs.core.windows.net/x", "abfs://container@account.dfs.core.windows.net/x"),
        ("simplecache::https://me@host/x?a=b", "simplecache::https://host/x"),
        ("images/a@b?c=d", "images/a@b?c=d"),
        ("digits", "digits"),
    ],
)
def test_the_url_of_data_is_kept_without_user_and_query(source: str, kept: str) -> None:
    assert data_without_credentials(source) == kept
    assert data_without_credentials(kept) == kept


@pytest.mark.parametrize(
    "text",
    ["kcv train --data=a@b --name=x", "see https://host/a/b for more", "http://host:5000/a@b", "sqlite:///a@b/mlflow.db",
     "what? me@host", "key=1"],
)  # fmt: skip
def test_what_is_not_secret_stays(text: str) -> None:
    assert hide_credentials(text) == text


def test_a_signed_url_is_hidden_wherever_it_stands() -> None:
    text = "ClientResponseError: 403, message='Forbidden', url='http://me@host/x.parquet?X-Amz-Signature=abc&f=1'"
    assert hide_credentials(text) == "ClientResponseError: 403, message='Forbidden', url='http://host/x.parquet'"
    words = ["kcv", "train", "--data=http://h/x.parquet?X-Amz-Credential=abc&f=1", "--epochs=1"]
    assert command(words) == "kcv train --data=http://h/x.parquet --epochs=1"
