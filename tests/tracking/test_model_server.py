"""Models behind a real MLflow server: logged, registered, read back, and served by MLflow itself."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from mlflow_server import Server

import kcv
from kcv.errors import ArtifactError, TrackingError
from kcv.exporting.mlflow_folder import mlflow_files
from kcv.tracking import MlflowTracker
from kcv.tracking.mlflow_models import fetch_model

if TYPE_CHECKING:
    from kcv.training.run_folder import Run

# About two minutes: a server, an outage, and MLflow's own server for models.
pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.kill()


def test_a_model_goes_through_a_server_and_an_outage(
    server: Server, trained_run: Run, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kcv.tracking.sender.SILENT_SECONDS", 1.0)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    files = mlflow_files(trained_run.model_path)

    # Logged and registered while the server is down; the next run delivers it.
    early = MlflowTracker(server.uri, "kcv")
    early.start("early", {}, {})
    early.log_model(files, register="toys", alias="champion")
    early.finish()
    monkeypatch.setattr("kcv.tracking.mlflow_models._PAUSES", ())
    with pytest.raises(TrackingError, match="cannot be reached"):
        fetch_model("models:/toys@champion")
    server.start()
    late = MlflowTracker(server.uri, "kcv")
    late.start("late", {}, {})
    late.log_model(files, register="toys")
    late.finish()

    image = images / "test" / "left" / "000.png"
    expected = list(kcv.predict(image, trained_run.model_path))
    run = late.state_dict()["run"]
    for model in ("models:/toys@champion", "models:/toys/latest", f"runs:/{run}/model"):
        assert list(kcv.predict(image, model)) == expected
        assert fetch_model(model).read_bytes() == trained_run.model_path.read_bytes()
    for model in ("models:/toys/9", "models:/toys@none", "models:/none/1", "runs:/abc/model", f"runs:/{run}/none"):
        with pytest.raises(ArtifactError, match=f"^{model}: "):
            fetch_model(model)

    # What MLflow serves says the same.
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/toys@champion", "--env-manager=local"]
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "PYTHONPATH": str(Path(kcv.__file__).parents[1]),
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    with (tmp_path / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, f"--port={port}"], env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        encoded = base64.b64encode(image.read_bytes()).decode()
        for body in ({"dataframe_split": {"columns": ["image"], "data": [[encoded]]}}, {"inputs": [encoded]}):
            (row,) = _asked(port, process, tmp_path / "serve.log", body)["predictions"]
            assert row["label"] == expected[0]["label"]
            assert row["confidence"] == pytest.approx(expected[0]["confidence"], abs=1e-5)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its workers too
        process.wait()


def _asked(port: int, process: subprocess.Popen[bytes], log: Path, body: dict[str, Any]) -> Any:
    """Returns the answer of a scoring server, which may still be starting."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    end = time.monotonic() + 300
    while True:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from error
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.2)
