"""Models in MLflow: what is logged and registered, and what `models:/` and `runs:/` find."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from web import QuietHandler, serving

from kcv.common.model_reference import ModelReference, is_reference
from kcv.errors import ArtifactError, KcvError, TrackingError, UsageError
from kcv.inference.locating import is_downloaded, model_file, results_folder
from kcv.tracking import MlflowTracker
from kcv.tracking.mlflow_files import LocalFiles, open_files
from kcv.tracking.mlflow_models import fetch_model

pytestmark = pytest.mark.filterwarnings("ignore")  # the tests write through MLflow's client itself

Messages = Callable[[], list[str]]


class Registry:
    """A database with registered models, and its client."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.uri = f"sqlite:///{folder}/mlflow.db"

    def run(self, files: dict[str, bytes], **options: Any) -> str:
        """Logs a run whose model has the given files; returns its ID."""
        tracker = MlflowTracker(self.uri, "kcv")
        tracker.start("run", {}, {})
        with tempfile.TemporaryDirectory(dir=self.folder) as made:
            paths: dict[str, Path | str] = {}
            for place, content in files.items():
                path = Path(made, str(len(paths)), place.rpartition("/")[2])
                path.parent.mkdir()
                path.write_bytes(content)
                paths[place] = path
            tracker.log_model({"MLmodel": "flavors: {}\n", **paths}, **options)
            tracker.finish()
        return str(tracker.state_dict()["run"])

    @property
    def client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self.uri)

    def stored(self, run: str, *names: str) -> Path:
        """Returns the path of a file of a run."""
        return self.folder.joinpath("mlartifacts", run, "artifacts", "model", *names)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """A database with two versions of a model: making it takes MLflow some seconds."""
    registry = Registry(tmp_path_factory.mktemp("registry"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KCV_CACHE_DIR", str(registry.folder / "cache"))
        registry.run({"data/model.keras": b"first"}, register="photos", alias="champion")
        registry.run({"data/model.keras": b"second", "data/model.onnx": b"graph"}, register="photos")
    return registry


@pytest.fixture(autouse=True)
def _store(registry: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.uri)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of the files that are copied from the store."""
    names: list[str] = []
    copy = LocalFiles.copy

    def counted(self: LocalFiles, target: Path, *path: str) -> None:
        names.append(path[-1])
        copy(self, target, *path)

    monkeypatch.setattr(LocalFiles, "copy", counted)
    yield names


@pytest.mark.full
def test_versions_aliases_and_runs_name_the_same_files(registry: Registry, tmp_path: Path, messages: Messages) -> None:
    run = registry.client.get_model_version("photos", "2").run_id
    first, second = fetch_model("models:/photos@champion"), fetch_model("models:/photos/2")
    assert (first.read_bytes(), second.read_bytes()) == (b"first", b"second")
    assert first.is_relative_to(tmp_path / "cache" / "models")
    assert (first.parent.name, second.parent.name) == ("photos-1", "photos-2")
    assert f"model      models:/photos@champion is version 1 of photos, from {registry.uri}" in messages()
    assert fetch_model("models:/photos/1") == first
    assert fetch_model("models:/photos/latest") == fetch_model("models:/photos/02") == second
    for path in (f"runs:/{run}/model", f"runs:/{run}/model/", f"runs:/{run}/model/data/model.keras"):
        assert fetch_model(path).read_bytes() == b"second"
        assert fetch_model(path).parent.name == f"run-{run[:8]}"
    assert fetch_model(f"runs:/{run}/model/data/model.onnx").read_bytes() == b"graph"
    assert not second.with_name("model.onnx").exists()
    assert fetch_model("models:/photos/2", every=True) == second
    assert second.with_name("model.onnx").read_bytes() == b"graph"


def test_a_file_with_a_checksum_is_downloaded_once_and_a_damaged_copy_again(copies: list[str]) -> None:
    path = fetch_model("models:/photos/1")
    before = path.stat()
    assert copies == ["model.keras.sha256", "model.keras"]
    assert fetch_model("models:/photos@champion") == path
    assert copies[2:] == ["model.keras.sha256"]
    path.write_bytes(b"FIRST")
    assert fetch_model("models:/photos/1").read_bytes() == b"first"
    assert copies[3:] == ["model.keras.sha256", "model.keras"]
    assert path.stat().st_mtime_ns == before.st_mtime_ns  # processes that share a prediction compare it


def test_files_without_a_checksum_are_asked_for_each_time(registry: Registry, copies: list[str]) -> None:
    run = registry.run({"data/model.keras": b"plain"})
    registry.stored(run, "data", "model.keras.sha256").unlink()
    first = fetch_model(f"runs:/{run}/model")
    assert first.read_bytes() == b"plain"
    assert fetch_model(f"runs:/{run}/model") == first
    registry.stored(run, "data", "model.keras").write_bytes(b"other")
    second = fetch_model(f"runs:/{run}/model")
    assert (first.read_bytes(), second.read_bytes()) == (b"plain", b"other")
    assert copies == ["model.keras"] * 3


def test_other_content_than_was_logged_is_refused(registry: Registry) -> None:
    run = registry.run({"data/model.keras": b"whole"})
    registry.stored(run, "data", "model.keras").write_bytes(b"wrong")
    with pytest.raises(ArtifactError, match=r"model\.keras is not the expected file \(other content than was stored\)"):
        fetch_model(f"runs:/{run}/model")
    assert not [path for path in Path("cache/models").rglob("*") if path.is_file()]


def test_what_other_tools_log_is_found_by_its_name(registry: Registry) -> None:
    run = registry.run({"artifacts/cats.onnx": b"onnx", "artifacts/notes.txt": b""})
    found = fetch_model(f"runs:/{run}/model")
    assert (found.name, found.read_bytes()) == ("model.onnx", b"onnx")
    several = registry.run({"a.keras": b"a", "b.keras": b"b"})
    with pytest.raises(ArtifactError, match=r"several models; name one by runs:/RUN_ID/PATH: a\.keras, b\.keras"):
        fetch_model(f"runs:/{several}/model")
    assert fetch_model(f"runs:/{several}/model/b.keras").read_bytes() == b"b"
    assert fetch_model(f"runs:/{several}/model/b.keras").parent.name == f"b-{several[:8]}"


def test_a_logged_model_of_mlflow_3_is_found_by_its_id_its_run_and_its_version(registry: Registry) -> None:
    client, run = registry.client, registry.run({"data/model.keras": b"of the run"})
    experiment = client.get_run(run).info.experiment_id
    logged = client.create_logged_model(experiment, name="net", source_run_id=run)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "model.keras").write_bytes(b"logged")
        client.log_model_artifacts(logged.model_id, folder)
    client.finalize_logged_model(logged.model_id, "READY")
    client.create_registered_model("nets")
    client.create_model_version("nets", f"models:/{logged.model_id}", await_creation_for=0)
    for text in (f"models:/{logged.model_id}", f"runs:/{run}/net", "models:/nets/1"):
        assert fetch_model(text).read_bytes() == b"logged"
    assert fetch_model(f"runs:/{run}/model").read_bytes() == b"of the run"


@pytest.mark.parametrize(
    "text",
    [
        "models:", "models:/", "models:/photos", "models:photos/1", "models://photos/1", "models:/photos/1/model.keras",
        "models:/a/b/3", "models:/photos@", "models:/@champion", "models:/photos@a b", "models:/pho:tos/1", "runs:",
        "runs:/", "runs:/../x", "runs:/abc/../x", "runs:/abc//x", "runs:/abc/./x", "runs:/a b/x", "runs:/abc/a\\b",
        "runs://host/abc/model", "models:/m-123",
    ],
)  # fmt: skip
def test_a_reference_of_another_form_is_one_line_that_tells_the_forms(text: str) -> None:
    assert is_reference(text)
    with pytest.raises(UsageError, match="allowed: models:/NAME/VERSION, models:/NAME@ALIAS or runs:/RUN_ID/PATH"):
        model_file(text)


def test_stages_are_told_to_be_gone() -> None:
    for word in ("Production", "1.0", "-1", "None"):
        with pytest.raises(UsageError, match="is no version; allowed: a number, latest, or an alias after an @"):
            model_file(f"models:/photos/{word}")


def test_parts_of_a_reference() -> None:
    assert ModelReference.parse("models:/a@b@c").name == "a@b"
    assert ModelReference.parse("models:/my model/3").version == "3"
    assert ModelReference.parse("models:/x/LATEST").is_latest
    assert ModelReference.parse("runs:/abc").path == ()
    assert ModelReference.parse("runs:/abc/a/b.keras").path == ("a", "b.keras")
    titles = (
        "models:/x/1",
        "runs:/0123456789/model",
        "runs:/0123456789/nets/data/model.keras",
        f"models:/m-{'0' * 32}",
    )
    assert [ModelReference.parse(text).title for text in titles] == ["x", "run-01234567", "nets", "m-00000000"]


@pytest.mark.parametrize(
    "url", ["https://example.org/model.keras", "hf:owner/name", "s3://bucket/m.onnx", "mlflow://x/y"]
)
def test_other_urls_are_no_models(url: str) -> None:
    with pytest.raises(UsageError, match=r"a model is a file, a run folder, models:/NAME/VERSION"):
        model_file(url)
    with pytest.raises(UsageError) as caught:
        model_file("https://anna:secret@example.org/model.keras?token=secret")
    assert "secret" not in str(caught.value)


def test_what_does_not_exist_is_told_with_what_there_is(registry: Registry) -> None:
    run = registry.client.get_model_version("photos", "1").run_id
    for text, told in {
        "models:/photo/1": "no model 'photo' is registered there; registered: .*photos.* Did you mean 'photos'",
        "models:/photo@champion": "no model 'photo' is registered there",
        "models:/photo/latest": "no model 'photo' is registered there",
        "models:/photos/9": "photos has no version 9; it has versions up to 2",
        "models:/photos@champ": "photos has no alias 'champ'; it has champion. Did you mean 'champion'",
        f"models:/m-{'0' * 32}": "there is no such model",
        "runs:/0123456789abcdef/model": "there is no such run",
        f"runs:/{run}/nowhere": "there are no files",
        f"runs:/{run}/model/other.keras": "there is no such file",
    }.items():
        with pytest.raises(ArtifactError, match=f"^{text}: {told}") as caught:
            fetch_model(text)
        assert "\n" not in str(caught.value)
    registry.client.create_registered_model("empty")
    with pytest.raises(ArtifactError, match="empty has no version 1; it has no version"):
        fetch_model("models:/empty/1")
    with pytest.raises(ArtifactError, match="the model has no version"):
        fetch_model("models:/empty/latest")
    text_only = registry.run({"notes.txt": b""})
    with pytest.raises(ArtifactError, match=r"holds no model of kcv \(a \.keras or \.onnx file\)"):
        fetch_model(f"runs:/{text_only}/model")


def test_a_moved_alias_is_another_file(registry: Registry) -> None:
    registry.client.set_registered_model_alias("photos", "moving", "1")
    assert fetch_model("models:/photos@moving").read_bytes() == b"first"
    registry.client.set_registered_model_alias("photos", "moving", "2")
    assert fetch_model("models:/photos@moving").read_bytes() == b"second"


def test_registering_again_makes_no_second_version(registry: Registry) -> None:
    run = registry.run({"data/model.keras": b"once"}, register="once", alias="champion")
    tracker = MlflowTracker(registry.uri, "kcv")
    tracker._store.register_model(run, "once", "champion")
    (version,) = registry.client.search_model_versions("name = 'once'")
    assert (version.run_id, int(version.version)) == (run, 1)
    assert {alias: int(at) for alias, at in registry.client.get_registered_model("once").aliases.items()} == {
        "champion": 1
    }
    assert registry.stored(run, "data", "model.keras.sha256").read_text() == (
        f"{hashlib.sha256(b'once').hexdigest()}  model.keras\n"
    )


def test_without_a_store_there_is_one_line_and_no_new_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(TrackingError, match=r"need an MLflow store, and there is no .*mlflow\.db; name a store"):
        fetch_model("models:/photos/1")
    (tmp_path / "mlflow.db").write_text("text")
    with pytest.raises(TrackingError, match="is not an SQLite database"):
        fetch_model("models:/photos/1")
    assert os.listdir(tmp_path) == ["mlflow.db"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file:///tmp/mlruns")
    with pytest.raises(TrackingError, match=r"^MLFLOW_TRACKING_URI: received 'file:///tmp/mlruns', allowed: sqlite"):
        fetch_model("models:/photos/1")


def test_a_database_that_was_not_named_gives_only_files_beside_it(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    (outside / "data").mkdir(parents=True)
    (outside / "data" / "model.keras").write_bytes(b"elsewhere")
    registry.client.create_registered_model("far")
    registry.client.create_model_version("far", outside.as_uri(), await_creation_for=0)
    assert fetch_model("models:/far/1").read_bytes() == b"elsewhere"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.chdir(registry.folder)
    assert fetch_model("models:/photos/1").read_bytes() == b"first"
    with pytest.raises(
        ArtifactError, match=r"not beside mlflow\.db; if that is right, name the store: MLFLOW_TRACKING"
    ):
        fetch_model("models:/far/1")


def test_a_link_in_a_store_is_not_followed(registry: Registry, tmp_path: Path) -> None:
    run = registry.run({"data/model.keras": b"mine", "other.onnx": b"graph"})
    place = registry.stored(run, "data", "model.keras")
    place.unlink()
    place.symlink_to(tmp_path / "secret")
    (tmp_path / "secret").write_bytes(b"secret")
    with pytest.raises(ArtifactError, match="there is no such file"):
        fetch_model(f"runs:/{run}/model/data/model.keras")
    with pytest.raises(ArtifactError, match="is a link, which is not followed"):
        LocalFiles(registry.stored(run)).copy(tmp_path / "copy", "data", "model.keras")


def test_a_file_larger_than_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch, registry: Registry) -> None:
    monkeypatch.setattr("kcv.tracking.mlflow_files.MOST_FILE_BYTES", 4)
    run = registry.run({"data/model.keras": b"large"})
    registry.stored(run, "data", "model.keras.sha256").unlink()
    with pytest.raises(ArtifactError, match="is larger than 4 bytes"):
        fetch_model(f"runs:/{run}/model")


@pytest.mark.parametrize(
    "location",
    [
        "http://other.example/files", "https://tracking.example:5000/files", "http://tracking.example:5001/files",
        "mlflow-artifacts://other.example/1", "ftp://tracking.example/1", "sftp://x/y", "hdfs://x/y",
        "abfss://a@evil.example/x", "http://[/x",
    ],
)  # fmt: skip
def test_files_at_another_host_are_not_asked_for(location: str) -> None:
    with pytest.raises(ArtifactError, match="which is not read from here; download them first"):
        open_files(location, "http://anna:secret@tracking.example:5000", named="models:/a/1")


def test_files_behind_the_server_itself_are(monkeypatch: pytest.MonkeyPatch) -> None:
    server = "http://anna:secret@tracking.example:5000"
    for location in ("mlflow-artifacts:/1/a", "mlflow-artifacts://tracking.example:5000/1", f"{server}/1"):
        open_files(location, server, named="models:/a/1")
    with pytest.raises(ArtifactError, match="which is not read from here"):
        open_files("mlflow-artifacts:/1/a", "sqlite:///mlflow.db", named="models:/a/1")


def test_a_server_that_cannot_be_reached_is_one_line_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kcv.tracking.mlflow_models._PAUSES", (0.0,))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://anna:secret@127.0.0.1:9")
    with pytest.raises(TrackingError, match=r"^models:/photos/1: http://127\.0\.0\.1:9 cannot be reached") as caught:
        fetch_model("models:/photos/1")
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "tries", "words"), [(503, 2, "cannot be reached"), (403, 1, "refuses"), (404, 1, "refuses")]
)
def test_a_server_in_trouble_is_asked_again_and_one_that_refuses_is_not(
    monkeypatch: pytest.MonkeyPatch, status: int, tries: int, words: str
) -> None:
    asked: list[str] = []

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_GET

    monkeypatch.setattr("kcv.tracking.mlflow_models._PAUSES", (0.0,))
    with serving(Handler) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with pytest.raises(KcvError, match=words) as caught:
            fetch_model("models:/photos/1")
    assert isinstance(caught.value, TrackingError)
    assert len(asked) == tries


def test_results_go_to_a_folder_of_name_and_version_and_never_into_the_cache(tmp_path: Path) -> None:
    local = tmp_path / "run" / "model.keras"
    assert results_folder(local) == tmp_path / "run"
    path = model_file("models:/photos/2")
    assert is_downloaded(path)
    assert results_folder(path) == Path("photos-2")
