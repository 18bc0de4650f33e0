"""A model file as the files of a public repository, and their card; what needs no client of the hub."""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from kcv import artifact
from kcv.common.hub_reference import HubReference, is_in_hub
from kcv.common.model_reference import is_in_mlflow, is_reference, title_of
from kcv.errors import UsageError
from kcv.exporting.published import publish, published_info, without_place
from kcv.reporting.hub_card import hub_card, without_weights_place
from kcv.reporting.material import gather

if TYPE_CHECKING:
    from kcv.training.run_folder import Run

PHOTOS = HubReference("anna", "photos")


def test_the_published_weights_are_the_same_and_the_same_file_is_made_again(trained_run: Run, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one, two = publish(trained_run.model_path, tmp_path / "one"), publish(trained_run.model_path, tmp_path / "two")
    assert list(one) == ["model.keras", "config.json", "metadata.json", "model.weights.h5", "kcv.json"]
    assert {name: path.read_bytes() for name, path in one.items()} == {n: path.read_bytes() for n, path in two.items()}
    assert artifact.weights_digest(one["model.keras"]) == artifact.weights_digest(trained_run.model_path)
    with zipfile.ZipFile(one["model.keras"]) as archive:
        assert all(archive.read(name) == path.read_bytes() for name, path in list(one.items())[1:])


def test_a_published_description_tells_nothing_of_the_machine(trained_run: Run, images: Path) -> None:
    ours = artifact.read_info(trained_run.model_path)
    assert ours.config["data"]["source"] == str(images)
    told = published_info(ours)
    assert told.config["data"]["source"] == "images" and not {"tracking", "output_dir"} & set(told.config)
    assert str(images.parent) not in told.model_dump_json()
    assert (told.metrics, told.calibration, told.class_names) == (ours.metrics, ours.calibration, ours.class_names)
    source = "https://anna:pw@x/y.parquet?X-Amz-Signature=s"
    config = {"data": {"source": source}, "model": {"name": "/a/nets.py:build"}, "x": [{"y": ["/a/b", 3]}]}
    told = published_info(ours.model_copy(update={"config": {**config, "tracking": {"uri": "http://u:p@host"}}}))
    assert told.config == {
        "data": {"source": "https://x/y.parquet"}, "model": {"name": "nets.py:build"}, "x": [{"y": ["b", 3]}],
    }  # fmt: skip
    for place, shown in {"C:\\Users\\a\\b": "b", "~/x/y": "y", "/": "data", "a/b": "a/b", "none": "none"}.items():
        assert without_place(place) == shown


def test_the_header_names_data_of_the_hub_and_figures_where_there_are_some(trained_run: Run) -> None:
    material = gather(trained_run.model_path, trained_run.directory / "evaluation")

    def header(source: str, **changes: object) -> dict[str, object]:
        info = material.info.model_copy(update={"config": {"data": {"source": source}}, "data_name": source})
        text = hub_card(dataclasses.replace(material, info=info, **changes), PHOTOS, onnx=False)  # type: ignore[arg-type]
        _, values, body = text.split("---\n", 2)
        assert body.startswith("\n# ")
        found: dict[str, object] = yaml.safe_load(values)
        return found

    assert header("hf:bert/cats")["datasets"] == ["bert/cats"]
    assert header("hf://datasets/bert/cats@main/x.parquet")["datasets"] == ["bert/cats"]
    local = header("My: data\n")
    assert "datasets" not in local and local["tags"] == ["kcv", "image-classification", "keras"]
    (index,) = local["model-index"]  # type: ignore[misc]
    (result,) = index["results"]
    assert result["dataset"] == {"name": "My: data\n", "type": "my-data", "split": "test"}
    assert result["metrics"][0]["value"] == round(trained_run.metrics["accuracy"], 4)
    assert not {"metrics", "model-index"} & set(header("x", metrics=None))
    assert material.environment is not None
    environment = material.environment.model_copy(update={"weights": "/home/anna/first.keras"})
    begun = dataclasses.replace(material, environment=environment)
    assert "starting weights: first.keras" in hub_card(without_weights_place(begun, "first.keras"), PHOTOS, onnx=False)


@pytest.mark.parametrize(
    "text",
    ["hf://anna", "hf://anna/photos/x", "hf://a/..", "hf://a/b--c", "hf://a/b.git", "hf:///x", "hf://a/b@",
     "hf://a/b@c d", "hf://datasets/a/b", "hf://", "anna/photos", "hf://a/\x1b[2J"],
)  # fmt: skip
def test_what_is_no_name_in_the_hub_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UsageError, match=r"hf://OWNER/NAME\[@COMMIT\]|after the @ a commit is allowed") as caught:
        HubReference.parse(text)
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)


def test_a_name_in_the_hub_is_told_from_others() -> None:
    pinned = HubReference.parse(f"hf://anna/photos@{'0a' * 20}")
    assert (pinned.repository, pinned.title, pinned.is_pinned) == ("anna/photos", "anna-photos-0a0a0a0", True)
    assert (PHOTOS.text, PHOTOS.title, PHOTOS.is_pinned) == ("hf://anna/photos", "anna-photos", False)
    assert not HubReference.parse("hf://anna/photos@v1.0").is_pinned
    assert is_in_hub("hf://x") and is_reference("hf://x") and not is_in_mlflow("hf://x")
    assert not is_in_hub("hf:x/y") and not is_in_hub(Path("hf:/x"))
    assert (title_of("hf://anna/photos"), title_of("models:/x/1")) == ("photos", "x")
