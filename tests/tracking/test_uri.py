from __future__ import annotations

import pytest

from kcv.common.redaction import hide_credentials, without_credentials


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://anna:secret@host:5000/x", "http://host:5000/x"),
        ("https://token@host", "https://host"),
        ("http://anna:se@cret@host:5000", "http://host:5000"),
        ("http://host:5000/a@b", "http://host:5000/a@b"),
        ("postgresql+psycopg2://anna:se/cret@db/kcv", "postgresql+psycopg2://db/kcv"),
        ("postgresql://db/kcv?user=a&password=secret&sslmode=require", "postgresql://db/kcv?user=a&sslmode=require"),
        ("postgresql://db/kcv?password=secret", "postgresql://db/kcv"),
        ("mssql+pyodbc:///?odbc_connect=DRIVER%3DX%3BPWD%3Dsecret", "mssql+pyodbc:///"),
        ("sqlite:///a@b/mlflow.db", "sqlite:///a@b/mlflow.db"),
        ("sqlite:////home/a@b/mlflow.db", "sqlite:////home/a@b/mlflow.db"),
        ("databricks", "databricks"),
    ],
)
def test_a_uri_is_shown_without_what_is_secret(uri: str, shown: str) -> None:
    assert without_credentials(uri) == shown


def test_a_text_is_shown_without_what_is_secret() -> None:
    command = "kcv train --tracking=http://anna:secret@host:5000 --data=a@b 'postgresql://h/d?password=secret&a=b' end?"
    assert hide_credentials(command) == "kcv train --tracking=http://host:5000 --data=a@b 'postgresql://h/d?a=b' end?"
