"""Every column of a sound Parquet file removed, retyped, nulled, nested, doubled, emptied: an answer or one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mutated_columns import column_mutants, columns

from kcv.data.loading import open_source
from kcv.data.parquet import source as parquet
from kcv.errors import DataError


@pytest.mark.parametrize("store_schema", [True, False], ids=["with Arrow's types", "without"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_every_change_of_a_column_is_an_answer_or_one_line(
    split: str, store_schema: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {"read": 0, "refused": 0}
    for number, (name, fields, about) in enumerate(column_mutants()):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        table = pa.Table.from_arrays([column for _, column in fields], [key for key, _ in fields])
        sound = pa.table(columns())
        try:
            for part, content in (("train", sound), (split, table)):
                described = content.replace_schema_metadata({b"huggingface": about})
                pq.write_table(described, folder / f"{part}-0.parquet", store_schema=store_schema)
        except (pa.ArrowException, UnicodeError):  # what pyarrow cannot write, nobody has
            continue
        for eager_bytes in (2**28, 0):
            monkeypatch.setattr(parquet, "EAGER_BYTES", eager_bytes)
            try:
                source = open_source(str(folder))
                for samples in source.splits.values():
                    assert all(isinstance(image, bytes) for image in samples.images), name
                    assert 0 <= samples.labels.min() <= samples.labels.max() < len(source.class_names), name
                    assert np.issubdtype(samples.labels.dtype, np.int64), name
                answers["read"] += 1
            except DataError as error:
                assert "\n" not in str(error) and len(str(error)) < 1000, name
                answers["refused"] += 1
            except Exception as error:
                raise AssertionError(f"{name}: {error!r}") from error
    assert min(answers.values()) > 10
