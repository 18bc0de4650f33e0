"""Several trackers of one run, and how `tracking.uri` names them."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from kcv.config import Config, TrackingConfig
from kcv.errors import ConfigError, TrackingError
from kcv.tracking import (
    DataRecord,
    MlflowTracker,
    Tracker,
    config_without_credentials,
    open_tracker,
    split_uris,
    uri_without_credentials,
)
from kcv.tracking.several import SeveralTrackers
from kcv.training.extensions import Extensions
from kcv.training.starting import start


@pytest.mark.parametrize(
    ("text", "uris"),
    [
        ("mlflow.db,tensorboard:logs", ["sqlite:///mlflow.db", "tensorboard:logs"]),
        ("tensorboard:logs, mlflow.db", ["tensorboard:logs", "sqlite:///mlflow.db"]),
        ("http://host:5000,tensorboard:a,wandb:b", ["http://host:5000", "tensorboard:a", "wandb:b"]),
        ("wandb:team/photos,http://host:5000", ["wandb:team/photos", "http://host:5000"]),
        # What names one store today still does.
        ("sqlite:////data/a,b/mlflow.db", ["sqlite:////data/a,b/mlflow.db"]),
        ("sqlite:///a.db,b.db", ["sqlite:///a.db,b.db"]),
        ("postgresql://anna:se,c:ret@host/db", ["postgresql://anna:se,c:ret@host/db"]),
        ("/data/mlflow.db", ["sqlite:////data/mlflow.db"]),
        (r"C:\runs\mlflow.db,tensorboard:C:\logs", [r"sqlite:///C:\runs\mlflow.db", r"tensorboard:C:\logs"]),
        ("databricks", ["databricks"]),
        ("none", ["none"]),
    ],
)
def test_a_comma_separates_trackers_but_not_an_address(text: str, uris: list[str]) -> None:
    assert split_uris(text) == uris


def test_a_list_names_several_and_is_stored_as_one_text() -> None:
    config = Config.load(**{"tracking.uri": ["mlflow.db", "tensorboard:logs"]})
    assert config.tracking.uri == "mlflow.db,tensorboard:logs"
    assert Config.load(tracking={"uri": ["sqlite:////a,b.db"]}).tracking.uri == "sqlite:////a,b.db"
    for wrong in ([], ["a.db", ""], ["a.db", 3], ["tensorboard:a,b", "a.db"]):
        with pytest.raises(ConfigError, match=r"tracking\.uri: received"):
            Config.load(**{"tracking.uri": wrong})


def test_passwords_are_removed_from_each() -> None:
    uri = "http://anna:secret@host:5000,tensorboard:logs,postgresql://bert:hidden@db/kcv"
    shown = "http://host:5000,tensorboard:logs,postgresql://db/kcv"
    assert uri_without_credentials(uri) == shown
    assert config_without_credentials(Config.load(tracking=uri)).tracking.uri == shown


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"uri": "mlflow.db,none"}, "none in a list"),
        ({"uri": "mlflow.db,"}, "received an empty name"),
        ({"uri": "mlflow.db,bord:x"}, "received 'bord:x', allowed: sqlite:///FILE, "),
        ({"uri": "mlflow.db,sqlite:///mlflow.db"}, "mlflow.db is there twice"),
        ({"uri": "tensorboard:"}, "names no folder"),
        ({"uri": "wandb:a/b/c"}, "allowed: wandb:PROJECT or wandb:TEAM/PROJECT"),
    ],
)
def test_what_cannot_be_opened_is_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(TrackingError, match=message) as caught:
        open_tracker(TrackingConfig(**values))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"uri": "tensorboard:logs"}, r"needs TensorBoard: pip install 'kcv\[tensorboard\]'"),
        ({"uri": "mlflow.db,wandb:photos"}, r"needs W&B's package: pip install 'kcv\[wandb\]'"),
        ({"uri": "none", "system_metrics": True}, r"needs psutil: pip install 'kcv\[system-metrics\]'"),
    ],
)
def test_a_missing_package_is_told_before_the_data_are_read(
    values: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    missing = ("tensorboard", "wandb", "psutil")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else find(name))
    config = Config.load(**{f"tracking.{name}": value for name, value in values.items()}, data="no such folder")
    with pytest.raises(TrackingError, match=message):
        start(config, None, None, None, Extensions())  # type: ignore[arg-type]  # nothing is locked


def test_a_model_is_registered_only_where_one_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(TrackingError, match=r"^tracking\.register: needs MLflow, and tensorboard:.* keeps no models"):
        open_tracker(TrackingConfig(uri="tensorboard:logs", register="photos"))
    both = open_tracker(TrackingConfig(uri="tensorboard:logs,mlflow.db", register="photos"))
    assert both.keeps_models


class Kept(Tracker):
    """Writes down each call."""

    def __init__(self, location: str, *, keeps_models: bool = False, fault: Exception | None = None) -> None:
        self.location, self.keeps_models, self._fault = location, keeps_models, fault
        self.calls: list[Any] = []
        self.resumes: str | None = None

    def start(self, run_name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        if self._fault is not None:
            raise self._fault
        self.calls.append(("start", run_name))

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        self.calls.append(("metrics", step))

    def log_artifacts(self, path: Path) -> None:
        self.calls.append(("artifacts", path))

    def log_datasets(self, records: Sequence[DataRecord]) -> None:
        self.calls.append(("data", len(records)))

    def log_model(self, files: Mapping[str, Path | str], **options: Any) -> None:
        self.calls.append(("model", options))

    def finish(self, status: Any = "FINISHED") -> None:
        self.calls.append(("finish", status))

    def state_dict(self) -> dict[str, str | None]:
        return {"location": self.location, "run": f"run at {self.location}"}

    def load_state_dict(self, state: Mapping[str, str | None]) -> None:
        assert state["location"] == self.location
        self.resumes = state["run"]


def test_every_tracker_gets_every_call() -> None:
    trackers = [Kept("a"), Kept("b", keeps_models=True)]
    several = SeveralTrackers(trackers)
    assert (several.location, several.keeps_models) == ("a, b", True)
    several.start("mine", {}, {})
    several.log_datasets([])
    several.log_metrics({"loss": 1.0}, 3)
    several.log_artifacts(Path("x"))
    several.log_model({}, register="photos", alias="champion")
    several.finish("KILLED")
    assert trackers[0].calls == trackers[1].calls == [
        ("start", "mine"), ("data", 0), ("metrics", 3), ("artifacts", Path("x")),
        ("model", {"register": "photos", "alias": "champion"}), ("finish", "KILLED"),
    ]  # fmt: skip


def test_a_run_is_resumed_with_the_same_other_or_fewer_trackers() -> None:
    state = SeveralTrackers([Kept("a"), Kept("b", keeps_models=True)]).state_dict()
    assert state == {"location": "b", "run": "run at b", "a": "run at a"}  # the run that others are shown below
    same = [Kept("b"), Kept("a"), Kept("c")]
    SeveralTrackers(same).load_state_dict(state)
    assert [tracker.resumes for tracker in same] == ["run at b", "run at a", None]
    for location, run in (("http://b", "id1"), ("http://a", "id2"), ("http://c", None)):
        one = MlflowTracker(location, "kcv")
        one.load_state_dict({"location": "http://b", "run": "id1", "http://a": "id2"})
        assert one.state_dict()["run"] == run


def test_where_one_refuses_the_run_ends_with_the_others() -> None:
    first, second = Kept("a"), Kept("b", fault=TrackingError("no"))
    with pytest.raises(TrackingError, match="no"):
        SeveralTrackers([first, second]).start("mine", {}, {})
    assert first.calls == [("start", "mine"), ("finish", "FAILED")]
