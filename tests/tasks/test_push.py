"""A model pushed to a hub on this machine by the real client, and taken from there in place of a file."""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import os
import re
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml
from hub_server import READER, WRITER, Hub, git_hash, serving_hub

pytest.importorskip("huggingface_hub", reason="needs the extra kcv[hub]")

import kcv
from kcv import artifact
from kcv.cli import main
from kcv.errors import ArtifactError, DataError, HubError, KcvError, UsageError
from kcv.hub.models import fetch_from_hub
from kcv.inference.locating import model_file, results_folder, source_of

if TYPE_CHECKING:
    from kcv.config import Config
    from kcv.tasks.export import Export
    from kcv.training.run_folder import Run

PHOTOS = "hf://anna/photos"
LAYOUT = {"README.md", "model.keras", "config.json", "metadata.json", "model.weights.h5", "kcv.json"}


@pytest.fixture(scope="module")
def server() -> Iterator[Hub]:
    with serving_hub() as hub:
        yield hub


@pytest.fixture
def hub(server: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """The hub, without faults; the user may write to it."""
    from huggingface_hub import constants

    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.setenv("HF_TOKEN", WRITER)
    # The client reads the environment when it is imported.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the storage here does not speak it
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub cache"))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between the client's attempts
    monkeypatch.chdir(tmp_path)
    server.asked.clear()
    server.heal()
    yield server
    server.heal()


@pytest.fixture(scope="module")
def pushed(server: Hub, trained_run: Run, exported: Export, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run with an ONNX file, pushed once."""
    folder = tmp_path_factory.mktemp("pushed") / "run"
    folder.mkdir()
    for name in ("model.keras", "environment.json"):
        shutil.copy(trained_run.directory / name, folder)
    shutil.copytree(trained_run.directory / "evaluation", folder / "evaluation")
    shutil.copy(exported.path, folder / "model.onnx")
    with pytest.MonkeyPatch.context() as patch:
        from huggingface_hub import constants

        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setenv("HF_ENDPOINT", server.address)
        patch.setenv("HF_TOKEN", WRITER)
        server.asked.clear()
        made = kcv.push(folder, PHOTOS)
    return made, folder, list(server.asked)


def files_of(hub: Hub, name: str = "anna/photos", branch: str = "main") -> dict[str, bytes]:
    repository = hub.repositories[name]
    return repository.commits[repository.heads[branch]]


def test_one_commit_holds_what_kcv_opens_and_what_keras_opens(
    hub: Hub, pushed: Any, trained_run: Run, exported: Export
) -> None:
    made, folder, asked = pushed
    repository = hub.repositories["anna/photos"]
    assert list(repository.commits) == [*list(repository.commits)[:1], made.commit]  # the hub's own, and one
    assert repository.messages[-1] == f"custom_cnn, kcv {kcv.__version__}" and not repository.private
    files = repository.commits[made.commit]
    assert set(files) == {".gitattributes", "model.onnx", *LAYOUT} and set(made.files) == {"model.onnx", *LAYOUT}
    assert (made.model, made.page) == (f"{PHOTOS}@{made.commit}", f"{hub.address}/anna/photos/tree/{made.commit}")
    assert files["model.onnx"] == exported.path.read_bytes()
    (folder.parent / "copy.keras").write_bytes(files["model.keras"])
    with zipfile.ZipFile(trained_run.model_path) as ours, zipfile.ZipFile(folder.parent / "copy.keras") as theirs:
        for name in ("config.json", "metadata.json", "model.weights.h5"):
            assert ours.read(name) == theirs.read(name) == files[name]
        assert theirs.read("kcv.json") == files["kcv.json"]
    outside = [token for method, path, token in asked if path.startswith("/storage")]
    assert outside == [None] * 3  # the storage is not told the token


def test_nothing_about_the_machine_is_published(hub: Hub, pushed: Any, trained_run: Run, images: Path) -> None:
    files = files_of(hub)
    info = json.loads(files["kcv.json"])
    assert info["config"]["data"]["source"] == "images" and not {"tracking", "output_dir"} & set(info["config"])
    ours = artifact.read_info(trained_run.model_path)
    assert ours.config["data"]["source"] == str(images)
    assert info["metrics"] == ours.metrics and info["class_names"] == list(ours.class_names)
    for name in ("kcv.json", "README.md", "config.json", "model.keras"):
        assert str(images.parent).encode() not in files[name], name


def test_the_card_has_the_header_that_the_hub_reads(hub: Hub, pushed: Any, trained_run: Run) -> None:
    from huggingface_hub import ModelCard

    text = files_of(hub)["README.md"].decode()
    card = ModelCard(text)
    assert (card.data.library_name, card.data.pipeline_tag) == ("keras", "image-classification")
    assert card.data.tags == ["kcv", "image-classification", "keras", "onnx"]
    (result, *_) = card.data.eval_results
    assert (result.metric_type, result.metric_value) == ("accuracy", round(trained_run.metrics["accuracy"], 4))
    assert (result.dataset_name, result.dataset_split, result.task_type) == ("images", "test", "image-classification")
    assert card.data.model_name == "photos" and card.data.datasets is None
    assert "kcv predict IMAGE --model=hf://anna/photos" in text
    assert 'keras.saving.load_model(snapshot_download("anna/photos"))' in text


def test_keras_opens_what_was_pushed_by_itself(
    hub: Hub, pushed: Any, trained_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keras
    from huggingface_hub import constants, snapshot_download
    from keras.src.saving import saving_lib

    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{hub.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    )
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    ours = kcv.load_model(trained_run.model_path).keras_model(pixels).detach()
    # `keras.saving.load_model("hf://...")` asks TensorFlow whether it is a folder, and calls this.
    np.testing.assert_array_equal(saving_lib.load_model(PHOTOS)(pixels).detach(), ours)
    folder = snapshot_download("anna/photos", endpoint=hub.address)
    np.testing.assert_array_equal(keras.saving.load_model(folder)(pixels).detach(), ours)


def test_a_model_in_the_hub_takes_the_place_of_a_file(
    hub: Hub, pushed: Any, trained_run: Run, images: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made, _, _ = pushed
    caplog.set_level(logging.INFO, "kcv")
    image = images / "test" / "left"
    assert list(kcv.predict(image, made.model)) == list(kcv.predict(image, trained_run.model_path))
    assert f"{made.model} is {made.model}, from {hub.address}" in caplog.text
    fetched = [path for method, path, _ in hub.asked if "/resolve/" in path]
    assert set(fetched) == {f"/anna/photos/resolve/{made.commit}/model.keras"}
    assert all(token is None for _, path, token in hub.asked if path.startswith("/storage"))

    hub.asked.clear()
    path = model_file(PHOTOS, every=True)  # the newest commit, of which the Keras file is in the cache
    assert f"{PHOTOS} is {made.model}" in caplog.text
    assert {path for _, path, _ in hub.asked if "/resolve/" in path} == {
        f"/anna/photos/resolve/{made.commit}/model.onnx"
    }
    assert (path.name, path.with_name("model.onnx").is_file()) == ("model.keras", True)
    assert source_of(path) == made.model
    assert results_folder(path) == Path(f"anna-photos-{made.commit[:7]}")
    assert os.listdir() == ["cache"]


def test_a_run_stores_the_commit_of_its_first_weights(hub: Hub, pushed: Any, configure: Callable[..., Config]) -> None:
    run = kcv.train(configure(epochs=1, **{"model.weights": PHOTOS, "model.width": 0.5}))
    assert json.loads((run.directory / "environment.json").read_text())["weights"] == pushed[0].model


def test_a_later_push_replaces_what_it_holds_and_leaves_the_rest(
    hub: Hub, pushed: Any, trained_run: Run, tmp_path: Path
) -> None:
    hub.add("anna/old", {"model.onnx": b"another model", "notes.txt": b"mine", "model.keras": b"old"})
    shutil.copy(trained_run.model_path, tmp_path / "model.keras")
    (tmp_path / "card.md").write_text("---\nlicense: mit\n---\n# Mine\n")
    first = kcv.push(tmp_path, "hf://anna/old", card=tmp_path / "card.md", message="A better one")
    files = files_of(hub, "anna/old")
    assert set(files) == {"notes.txt", *LAYOUT} and files["README.md"] == b"---\nlicense: mit\n---\n# Mine\n"
    assert hub.repositories["anna/old"].messages[-1] == "A better one"
    (tmp_path / "card.md").write_text("# Mine\n")
    kcv.push(tmp_path, "hf://anna/old", card=tmp_path / "card.md", revision="next")
    readme = files_of(hub, "anna/old", "next")["README.md"].decode()
    assert readme.endswith("---\n\n# Mine\n") and yaml.safe_load(readme.split("---\n")[1])["library_name"] == "keras"
    assert hub.repositories["anna/old"].heads["main"] == first.commit


def test_an_onnx_file_of_another_model_is_not_pushed(
    hub: Hub, pushed: Any, trained_run: Run, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture,
    kept_graphs: None,
) -> None:  # fmt: skip
    shutil.copy(pushed[1] / "model.onnx", tmp_path / "model.onnx")
    info = artifact.read_info(trained_run.model_path)
    shutil.copy(trained_run.model_path, tmp_path / "model.keras")
    artifact.describe_again(tmp_path / "model.keras", info.model_copy(update={"class_names": ("a", "b", "c")}))
    kcv.push(tmp_path, "hf://anna/other")
    assert "describes another model; export it again: it is not pushed; --onnx exports one" in caplog.text
    assert set(files_of(hub, "anna/other")) == {".gitattributes", *LAYOUT}


@pytest.mark.full
def test_onnx_exports_where_there_is_no_file(
    hub: Hub, trained_run: Run, exported: Export, kept_graphs: None, tmp_path: Path
) -> None:
    shutil.copytree(trained_run.directory, tmp_path / "run")
    kcv.push(tmp_path / "run", "hf://anna/exported", onnx=True, private=True)
    assert hub.repositories["anna/exported"].private
    assert not (tmp_path / "run" / "model.onnx").exists()
    (tmp_path / "theirs.onnx").write_bytes(files_of(hub, "anna/exported")["model.onnx"])
    ours, theirs = (kcv.OnnxModel(path, device="cpu").info for path in (exported.path, tmp_path / "theirs.onnx"))
    assert dataclasses.asdict(theirs) == dataclasses.asdict(ours)


def test_the_command_line_pushes_and_says_where(
    hub: Hub, trained_run: Run, capsys: pytest.CaptureFixture[str], pushed: Any
) -> None:
    assert main(["push", str(trained_run.model_path), "hf://anna/said", "--private"]) == 0
    assert hub.repositories["anna/said"].private
    said, commit = capsys.readouterr(), hub.repositories["anna/said"].heads["main"]
    assert f"predict IMAGE --model=hf://anna/said@{commit}" in said.out
    assert [line.split()[0] for line in said.err.splitlines()] == ["pushing"]
    assert main(["info", "hf://anna/said", "--format=json"]) == 0
    assert json.loads(capsys.readouterr().out)["class_names"] == ["centre", "left", "top"]
    # What is there already makes no further commit.
    assert main(["push", f"--run={trained_run.model_path}", "--repo=hf://anna/said", "--private", "--format=json"]) == 0
    assert json.loads(capsys.readouterr().out)["commit"] == commit


def words(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Returns the one line in which a command ends."""
    assert main(command) == 2
    said = capsys.readouterr()
    (line,) = (line for line in said.err.splitlines() if not line.startswith("pushing"))
    assert said.out == "" and WRITER not in line and "Signature" not in line
    return line.removeprefix("kcv: error: ")


def test_what_cannot_be_pushed_is_told_in_one_line(
    hub: Hub, pushed: Any, trained_run: Run, exported: Export, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    run = str(trained_run.model_path)
    commits = len(hub.repositories["anna/photos"].commits)
    (tmp_path / "bad.md").write_text("---\ntags: 3\n---\n")
    for command, told in {
        ("push",): "push needs RUN REPO: a run folder, or the model file in it.",
        ("push", "x"): "push needs RUN REPO: the repository, hf://OWNER/NAME.",
        ("push", run, PHOTOS, "more"): "push takes RUN REPO and options, but not 'more' as well.",
        ("push", run, "anna/photos"): "anna/photos: allowed: hf://OWNER/NAME[@COMMIT].",
        ("push", run, "hf://anna"): "hf://anna: allowed: hf://OWNER/NAME[@COMMIT].",
        ("push", run, "hf://anna/a--b"): "hf://anna/a--b: allowed: hf://OWNER/NAME[@COMMIT].",
        (
            "push",
            run,
            "hf://datasets/anna/x",
        ): "hf://datasets/anna/x: only models are read, by hf://OWNER/NAME[@COMMIT].",
        (
            "push",
            run,
            f"{PHOTOS}@main",
        ): f"{PHOTOS}@main: a push makes a commit of its own; for a branch: --revision=NAME.",
        ("push", run, PHOTOS, f"--revision={'a' * 40}"): "--revision: received 'aaaa",
        ("push", run, PHOTOS, "--private"): f"--private: {PHOTOS} is public, and the files would be, too;",
        ("push", run, PHOTOS, "--card=none.md"): "none.md: no such file",
        ("push", run, PHOTOS, "--card=bad.md"): f"{PHOTOS}: {hub.address} answers 400: ",
        ("push", "none", PHOTOS): "none: no such model file",
        (
            "push",
            str(exported.path),
            PHOTOS,
        ): f"{exported.path}: is an exported file (ONNX); here the .keras file is needed",
    }.items():
        assert words(list(command), capsys).startswith(told), command

    monkeypatch.setenv("HF_TOKEN", READER)
    assert "the token does not give the right to do this" in words(["push", run, PHOTOS], capsys)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "the hub does not know the token; set HF_TOKEN, or log in" in words(["push", run, PHOTOS], capsys)
    monkeypatch.delenv("HF_TOKEN")
    assert words(["push", run, PHOTOS], capsys) == (
        "the hub needs a token to write with: set HF_TOKEN, or log in: hf auth login."
    )
    monkeypatch.setenv("HF_TOKEN", WRITER)
    hub.statuses["PUT /storage"] = 403
    hub.uploads.clear()
    assert words(["push", run, PHOTOS], capsys).startswith(f"{PHOTOS}: the token does not give the right")
    assert len(hub.repositories["anna/photos"].commits) == commits


def test_a_commit_of_somebody_else_meanwhile_is_not_overwritten(hub: Hub, pushed: Any, trained_run: Run) -> None:
    hub.add("anna/busy", {"a": b"1"})

    def interfere(request: str) -> None:
        if "/preupload/" in request:
            hub.repositories["anna/busy"].commit({"a": b"2"})

    hub.before = interfere
    with pytest.raises(HubError, match=r"hf://anna/busy: has changed meanwhile; nothing was pushed, try again"):
        kcv.push(trained_run.model_path, "hf://anna/busy")
    assert files_of(hub, "anna/busy") == {"a": b"2"}


def test_a_branch_is_no_commit(hub: Hub, pushed: Any) -> None:
    commit = pushed[0].commit
    pinned = f"name the commit: {PHOTOS}@{commit}"
    repository = hub.repositories["anna/photos"]
    repository.heads |= {"v1.0": commit, "b" * 40: commit}
    try:
        for revision in ("main", "v1.0", "b" * 40):  # a branch may be named like a commit
            with pytest.raises(UsageError, match=f"{revision} is a branch or a tag, which may move; {pinned}"):
                fetch_from_hub(f"{PHOTOS}@{revision}")
    finally:
        del repository.heads["v1.0"], repository.heads["b" * 40]
    with pytest.raises(UsageError, match=f"{commit[:12]} is not the whole commit; {pinned}"):
        fetch_from_hub(f"{PHOTOS}@{commit[:12]}")
    for revision in ("nowhere", "0" * 40):
        with pytest.raises(ArtifactError, match="has no such commit or branch"):
            fetch_from_hub(f"{PHOTOS}@{revision}")


def test_what_is_not_there_or_not_for_this_user_is_told(
    hub: Hub, pushed: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("anna/secret", {"model.keras": b"x"}, private=True)
    hub.add("anna/empty", {"config.json": b"{}", "model.weights.h5": b"x"})
    assert "there is no such repository, or it is private: set HF_TOKEN" in words(["info", "hf://anna/none"], capsys)
    assert "holds no model of kcv (model.keras or model.onnx)" in words(["info", "hf://anna/empty"], capsys)
    monkeypatch.delenv("HF_TOKEN")
    assert "there is no such repository, or it is private" in words(["info", "hf://anna/secret"], capsys)
    hub.statuses["/api/models/anna/photos"] = 401
    assert "set HF_TOKEN, or log in" in words(["info", PHOTOS], capsys)
    hub.statuses["/api/models/anna/photos"] = 418
    assert words(["info", PHOTOS], capsys) == f"{PHOTOS}: {hub.address} answers 418: status 418."
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert words(["info", PHOTOS], capsys).startswith(f"{PHOTOS}: no proper answer from http://127.0.0.1:9: ")
    assert os.listdir() == []


def test_a_download_that_breaks_off_goes_on_or_is_told(hub: Hub, pushed: Any) -> None:
    hub.cuts = 2
    path, _ = fetch_from_hub(pushed[0].model)
    assert path.read_bytes() == files_of(hub)["model.keras"]
    shutil.rmtree(path.parents[1])
    hub.cuts = 1000
    with pytest.raises(KcvError, match=rf"{pushed[0].model}: ") as caught:
        fetch_from_hub(pushed[0].model)
    assert "\n" not in str(caught.value)
    assert not path.parents[1].exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda content: b"x" * len(content), r"is not the expected file \(other content than the hub lists\)"),
        (lambda content: content + b"x" * 100, "more came of model.keras than its"),
        (lambda content: content[:-9], "no proper answer from .*: Consistency check failed: file should be of size"),
    ],
    ids=["other", "more", "less"],
)
def test_a_file_that_is_not_the_listed_one_is_refused(
    hub: Hub, pushed: Any, change: Callable[[bytes], bytes], told: str, tmp_path: Path
) -> None:
    hub.instead = change(files_of(hub)["model.keras"])
    with pytest.raises(KcvError, match=told) as caught:
        fetch_from_hub(PHOTOS)
    assert "\n" not in str(caught.value)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_small_file_is_compared_with_the_hash_of_git(hub: Hub, pushed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hub_server._LARGE", (".h5",))
    content = files_of(hub)["model.keras"]
    hub.add("anna/small", {"model.keras": content})
    path, pinned = fetch_from_hub("hf://anna/small")
    assert path.read_bytes() == content
    shutil.rmtree(path.parents[1])
    monkeypatch.setattr("hub_server.git_hash", lambda other: git_hash(b"x"))
    with pytest.raises(ArtifactError, match="other content than the hub lists"):
        fetch_from_hub(pinned)


def test_a_hostile_model_is_refused_by_kcvs_own_checks(
    hub: Hub, pushed: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import keras

    made = tmp_path / "hostile.keras"
    with zipfile.ZipFile(trained := tmp_path / "sound.keras", "w") as archive:
        for name in LAYOUT - {"README.md", "model.keras"}:
            archive.writestr(name, files_of(hub)[name])
    canary = tmp_path / "canary"
    with zipfile.ZipFile(trained) as sound, zipfile.ZipFile(made, "w") as hostile:
        for name in sound.namelist():
            content = sound.read(name)
            if name == "config.json":
                config = json.loads(content)
                config["config"]["layers"][1].update(
                    module="os", class_name="system", config={"name": f"touch {canary}"}
                )
                content = json.dumps(config).encode()
            hostile.writestr(name, content)
    hub.add("mallory/photos", {"model.keras": made.read_bytes(), "config.json": b"{}"})
    monkeypatch.setattr(keras.saving, "load_model", None)
    with pytest.raises(ArtifactError, match="system"):
        kcv.load_model("hf://mallory/photos")
    assert not canary.exists()
    hub.add("mallory/big", {"model.keras": b"x"})
    monkeypatch.setattr("kcv.hub.models._MOST_BYTES", 0)
    with pytest.raises(ArtifactError, match="has 1 bytes, allowed: 0"):
        fetch_from_hub("hf://mallory/big")


def test_a_full_disk_is_one_line_and_nothing_is_pushed(
    hub: Hub, trained_run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(source), None, str(target))

    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr("kcv.exporting.published.shutil.copyfile", full)
    told = words(["push", str(trained_run.model_path), "hf://anna/full"], capsys)
    assert re.fullmatch(r"cannot write to \S+/kcv-push-\w+: No space left on device; TMPDIR names another folder", told)
    assert "anna/full" not in hub.repositories and not list((tmp_path / "temporary").iterdir())


def test_without_the_extra_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, trained_run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for command in (["info", PHOTOS], ["push", str(trained_run.model_path), PHOTOS]):
        assert words(command, capsys) == "hf:// needs huggingface_hub: pip install 'kcv[hub]'."


def test_a_card_that_is_no_text_is_refused(hub: Hub, trained_run: Run, tmp_path: Path) -> None:
    (tmp_path / "card.md").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"card\.md: is no UTF-8 text"):
        kcv.push(trained_run.model_path, PHOTOS, card=tmp_path / "card.md")
