"""Names of models in MLflow, as users type them (`models:/NAME@ALIAS` ...), and what is common to all names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from kcv.common.hub_reference import HUB_FORM, HubReference, is_in_hub
from kcv.common.text import printable, shortened
from kcv.errors import UsageError

_FORMS = ("models:/NAME/VERSION", "models:/NAME@ALIAS", "runs:/RUN_ID/PATH")
FORMS = f"{', '.join(_FORMS)} or {HUB_FORM}"
"""What names a model that is no file."""

_LATEST = "latest"
_VERSION = re.compile(r"models:/([^/:]{1,256})/([^/]{1,100})")
_ALIAS = re.compile(r"models:/([^/:]{1,256})@([\w.-]{1,255})")
_LOGGED = re.compile(r"models:/(m-[0-9a-f]{32})")
_RUN = re.compile(r"runs:/([A-Za-z0-9_-]{1,64})(?:/(.{0,1000}))?", re.DOTALL)
_GENERAL = frozenset(("", "model", "data", "artifacts"))
"""Names in a path that do not tell models apart."""


@dataclass(frozen=True)
class ModelReference:
    """A model in MLflow: a version of a registered model, a logged model, or a path in the files of a run.

    Attributes:
        text: what the user typed.
        name: name of the registered model.
        version: its version, or `latest`.
        alias: its alias, in place of a version.
        model_id: ID of a logged model (MLflow 3).
        run_id: ID of a run.
        path: a path in the files of the run, in parts.
    """

    text: str
    name: str | None = None
    version: str | None = None
    alias: str | None = None
    model_id: str | None = None
    run_id: str | None = None
    path: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> ModelReference:
        """Parses a reference.

        Raises:
            UsageError: it has another form.

        Example:
            >>> ModelReference.parse("models:/digits@champion").alias
            'champion'
        """
        if found := _LOGGED.fullmatch(text):
            return cls(text, model_id=found[1])
        if found := _ALIAS.fullmatch(text):
            return cls(text, name=found[1], alias=found[2])
        if found := _VERSION.fullmatch(text):
            return cls(text, name=found[1], version=_version(text, found[2]))
        if found := _RUN.fullmatch(text):
            parts = tuple((found[2] or "").rstrip("/").split("/")) if found[2] else ()
            if not any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in parts):
                return cls(text, run_id=found[1], path=parts)
        raise UsageError(f"{printable(shortened(text))}: allowed: {', '.join(_FORMS[:-1])} or {_FORMS[-1]}.")

    @property
    def is_latest(self) -> bool:
        """Whether the newest version is meant."""
        return self.version == _LATEST

    @property
    def title(self) -> str:
        """A short name for the model: that of the registered model, or of the path in the run."""
        if self.name is not None:
            return self.name
        stems = [Path(part).stem for part in self.path]
        told = next((stem for stem in reversed(stems) if stem.lower() not in _GENERAL), None)
        return told or (f"run-{self.run_id[:8]}" if self.run_id else str(self.model_id)[:10])


def is_in_mlflow(named: object) -> bool:
    """Returns whether a user named a model in MLflow, in whichever form, rather than a file."""
    return isinstance(named, str) and re.match(r"(models|runs):", named) is not None


def is_reference(named: object) -> bool:
    """Returns whether a user named a model in MLflow or in the Hugging Face Hub rather than a file."""
    return is_in_mlflow(named) or is_in_hub(named)


def title_of(named: str) -> str:
    """Returns a short name for a model in MLflow or in the Hub.

    Raises:
        UsageError: the reference has another form.
    """
    return HubReference.parse(named).name if is_in_hub(named) else ModelReference.parse(named).title


def _version(text: str, word: str) -> str:
    if word.lower() == _LATEST:
        return _LATEST
    if not re.fullmatch(r"[0-9]{1,18}", word):
        raise UsageError(
            f"{printable(shortened(text))}: {printable(shortened(word))!r} is no version; allowed: a number, latest, "
            "or an alias after an @. Stages are not read."
        )
    return word.lstrip("0") or "0"
