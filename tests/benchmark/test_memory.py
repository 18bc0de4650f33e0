"""`benchmark memory` on sets that are small enough for a test."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kcv.benchmark import memory
from kcv.cli.render.benchmark import memory_benchmark
from kcv.data.parquet import source as parquet
from kcv.errors import OutputError


@pytest.mark.parametrize("processes", [False, pytest.param(True, marks=pytest.mark.long)], ids=["here", "as it is"])
def test_each_set_is_measured_and_removed(processes: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "SIZES", (1000, 3000))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    if not processes:  # what is measured and removed is the same; only the peaks are then of all tests before
        monkeypatch.setattr(memory, "ProcessPoolExecutor", lambda count, context: ThreadPoolExecutor(count))
        monkeypatch.setattr(memory, "_WORKERS", 0)
        monkeypatch.setattr(parquet, "EAGER_BYTES", parquet.EAGER_BYTES)
    rows = memory.benchmark_memory(images=2000)
    assert [row["pictures"] for row in rows] == [1000, 2000]
    assert rows[1]["encoded_bytes"] == pytest.approx(2 * rows[0]["encoded_bytes"], rel=0.01)
    assert all(row["peak_bytes"] > 10**8 and row["images_per_second"] > 0 for row in rows)
    assert list(tmp_path.iterdir()) == []
    assert "2,000" in memory_benchmark(rows)


def test_a_set_that_does_not_fit_on_the_disk_is_not_begun() -> None:
    with pytest.raises(OutputError, match=r"needs .* MB of free disk"):
        memory.benchmark_memory(images=10**12)
