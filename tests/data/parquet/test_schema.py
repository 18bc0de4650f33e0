"""What a schema says in names and types of any length is told at readable length."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

from kcv.data.parquet.schema import columns_of
from kcv.errors import DataError

LONG = "x" * 100_000
LABEL = pa.field("label", pa.int8())


def schema_of(*fields: pa.Field, kinds: dict[str, str]) -> pa.Schema:
    features = {name: {"_type": kind} for name, kind in kinds.items()}
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (schema_of(pa.field(LONG, pa.float32()), LABEL, kinds={LONG: "Image"}), "must be binary or a struct"),
        (
            schema_of(pa.field("image", pa.binary()), pa.field(LONG, pa.float32()), kinds={LONG: "ClassLabel"}),
            "must be integers or text, not float",
        ),
        (schema_of(pa.field("image", pa.timestamp("us", LONG)), LABEL, kinds={}), "must be binary or a struct"),
        (
            schema_of(
                pa.field("image", pa.binary()),
                pa.field(LONG, pa.int8()),
                pa.field(LONG, pa.int8()),
                kinds={LONG: "ClassLabel"},
            ),
            "2 columns that are called 'xxx|needs a column 'label'",
        ),
        (schema_of(pa.field(LONG, pa.int8()), kinds={}), "its columns: xxx"),
    ],
)
def test_a_long_name_or_type_is_cut(schema: pa.Schema, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        columns_of(schema, "a.parquet", labelled=True)
    assert len(str(caught.value)) < 600
