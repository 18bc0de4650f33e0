"""What the tests of the server share: a model made by hand, and a server that most of them ask."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from onnx_by_hand import network
from serving import Running, serving


@pytest.fixture(scope="session")
def network_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model, 16 px, of the classes a, b and c."""
    path = tmp_path_factory.mktemp("served") / "net.onnx"
    path.write_bytes(network())
    return path


@pytest.fixture(scope="module")
def running(network_file: Path) -> Iterator[Running]:
    """A server of that model, which most tests ask."""
    with serving(network_file) as server:
        yield server
