"""Parquet files of feature vectors: written row by row, and read back from anybody within limits.

The columns are `path`, `vector` (a list of float32), `label`, `confidence` and `error`; the metadata says which model
the vectors are of, so that those of different models are never compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from kcv.common.files import atomic
from kcv.common.rows import utf8
from kcv.common.untrusted import parse, refusing
from kcv.errors import DataError, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

MOST_WIDTH: Final = 65_536
"""The most numbers of a vector; the widest network of kcv has 2,048."""
MOST_TEXT: Final = 16_384
"""The most bytes of a path or a label."""

_KEY: Final = b"kcv"
_VECTOR: Final = "vector"
_WRITTEN_ROWS: Final = 4096
_READ_NUMBERS: Final = 2**22  # of the vectors in memory at the same time
_DAMAGED: Final = "its vectors are damaged"


class Origin(BaseModel):
    """What vectors are of.

    Attributes:
        weights_sha256: SHA-256 (hex) of the weights, the same for a Keras file and what was exported from it.
        precision: precision of the computation, `float32` or `int8`.
        width: how many numbers a vector has.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    weights_sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    precision: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]{1,20}$")]
    width: int = Field(ge=1, le=MOST_WIDTH)


def require_parquet(path: Path) -> None:
    """Raises UsageError if a name is not that of a Parquet file."""
    if path.suffix.lower() != ".parquet":
        raise UsageError(f"--output: received {str(path)!r}, allowed: a name that ends in .parquet.")


class VectorWriter:
    """Writes rows one at a time; see `open_vectors`."""

    def __init__(self, writer: Any, schema: pa.Schema) -> None:
        self._writer, self._schema = writer, schema
        self._held: list[Mapping[str, Any]] = []

    def write(self, row: Mapping[str, Any]) -> None:
        """Adds a row with the columns of the file; `vector` is float32 [width], or None."""
        self._held.append({name: utf8(row[name]) for name in self._schema.names})
        if len(self._held) >= _WRITTEN_ROWS:
            self.flush()

    def flush(self) -> None:
        """Writes the rows that are held."""
        import pyarrow as pa

        if self._held:
            self._writer.write_table(pa.Table.from_pylist(self._held, schema=self._schema))
            self._held = []


@contextmanager
def open_vectors(path: Path, origin: Origin) -> Iterator[VectorWriter]:
    """Opens a file for vectors. It appears under its name only if the block succeeds.

    Raises:
        UsageError: the suffix is not .parquet.
        OutputError: the file cannot be written.
    """
    import pyarrow as pa
    from pyarrow import parquet

    require_parquet(path)
    schema = pa.schema(
        [("path", pa.string()), (_VECTOR, pa.list_(pa.float32())), ("label", pa.string()),
         ("confidence", pa.float64()), ("error", pa.string())],
        metadata={_KEY: origin.model_dump_json()},
    )  # fmt: skip
    # Texts repeat, vectors do not; of numbers that do not repeat, compression saves little and costs time.
    packed = {name: "snappy" if name != _VECTOR else "none" for name in schema.names}
    packed[f"{_VECTOR}.list.element"] = packed.pop(_VECTOR)
    with (
        atomic(path) as temporary,
        parquet.ParquetWriter(temporary, schema, use_dictionary=["label", "error"], compression=packed) as writer,
    ):
        rows = VectorWriter(writer, schema)
        yield rows
        rows.flush()


class VectorFile:
    """A file of vectors, from anybody.

    Args:
        path: the file.

    Attributes:
        path: as given.
        origin: what its vectors are of.

    Raises:
        DataError: the file is missing or damaged, holds no vectors, or unpacks to far more than its size.
    """

    def __init__(self, path: Path) -> None:
        from kcv.data.parquet import bounded_rows, pages
        from kcv.data.parquet.shards import Shard

        self.path = path
        self._shard = Shard(str(path), str(path))
        file = self._shard.open()
        try:
            with refusing(path, DataError, bounded_rows.NOT_PARQUET):
                self.origin = self._origin(file.schema_arrow)
                leaves = [bounded_rows.leaf_of(self._shard, file, self._leaf(file, name)) for name in self._columns]
                bounded_rows.check_rows(self._shard, file.metadata, leaves)
                for group in range(file.metadata.num_row_groups):
                    for leaf in leaves:
                        pages.check(self._shard, file, group, leaf)
        finally:
            file.close()

    _columns = ("path", _VECTOR, "label")

    def _origin(self, schema: pa.Schema) -> Origin:
        import pyarrow as pa

        told = (schema.metadata or {}).get(_KEY)
        if told is None:
            raise DataError(f"{self.path}: holds no feature vectors; `kcv embed` writes them.")
        kinds = {name: schema.field(name).type for name in self._columns if schema.names.count(name) == 1}
        texts = all(name in kinds and pa.types.is_string(kinds[name]) for name in ("path", "label"))
        if not texts or kinds.get(_VECTOR) != pa.list_(pa.float32()):
            raise DataError(f"{self.path}: {_DAMAGED}: its columns are of other types.")
        return parse(told, Origin, self.path, DataError)

    @staticmethod
    def _leaf(file: Any, name: str) -> str:
        """Returns the path of the leaf column; lists have other names inside in files of other writers."""
        found = [file.schema.column(leaf).path for leaf in range(len(file.schema))]
        return next((path for path in found if path == name or path.startswith(f"{name}.")), name)

    def batches(self) -> Iterator[tuple[Sequence[str], Sequence[str], NDArray[np.float32]]]:
        """Yields paths, labels and vectors, float32 [n, width], some rows at a time, without those that have none.

        Raises:
            DataError: the file is damaged: a vector has another length or holds numbers that are not finite, or a text
                is too long.
        """
        from kcv.data.parquet import bounded_rows

        rows = max(1, _READ_NUMBERS // self.origin.width)
        file = self._shard.open()
        try:
            with refusing(self.path, DataError, bounded_rows.NOT_PARQUET):
                for batch in file.iter_batches(rows, columns=list(self._columns)):
                    yield self._checked(batch)
        finally:
            file.close()

    def _checked(self, batch: pa.RecordBatch) -> tuple[Sequence[str], Sequence[str], NDArray[np.float32]]:
        import pyarrow.compute as pc

        batch = batch.filter(pc.is_valid(batch.column(_VECTOR)))
        vectors = batch.column(_VECTOR)
        lengths = pc.list_value_length(vectors).to_numpy(zero_copy_only=False)
        numbers = vectors.flatten()
        if (lengths != self.origin.width).any() or numbers.null_count:
            raise DataError(f"{self.path}: {_DAMAGED}: one has another length than the file says.")
        values = numbers.to_numpy(zero_copy_only=False).reshape(-1, self.origin.width)
        if not np.isfinite(values).all():
            raise DataError(f"{self.path}: {_DAMAGED}: one holds numbers that are not finite.")
        texts = [batch.column(name) for name in ("path", "label")]
        for column in texts:
            if column.null_count or (pc.max(pc.binary_length(column)).as_py() or 0) > MOST_TEXT:
                raise DataError(f"{self.path}: {_DAMAGED}: a path or a label is missing or too long.")
        paths, labels = (column.to_pylist() for column in texts)
        return paths, labels, values


def require_same(file: VectorFile, origin: Origin, model: Path) -> None:
    """Raises DataError if vectors of a file are not those of a model."""
    if file.origin != origin:
        raise DataError(f"{file.path}: holds vectors of another model than {model}; embed the images again.")
