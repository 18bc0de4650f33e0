"""Where a served model comes from: the names that an operator types, and the file that they stand for.

A model in MLflow is looked up each time it is loaded, so that SIGHUP serves the version that an alias then stands for.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from kcv.common.files import expand_user
from kcv.common.model_reference import is_reference, title_of
from kcv.errors import ArtifactError, UsageError
from kcv.inference.locating import model_file
from kcv.inference.runtimes import runtime_of

_log = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,99})=(.+)", re.DOTALL)
_GENERAL = ("model", "")
"""Names of files that do not tell models apart; the folder's name does."""


@dataclass(frozen=True)
class Place:
    """A model as it was named on the command line.

    Attributes:
        name: the name that clients use.
        given: the file or run folder, or the text that names a model in MLflow or the Hub.
    """

    name: str
    given: str | Path

    @property
    def candidates(self) -> tuple[Path, ...]:
        """The files that a change is looked for in: the ONNX file and the Keras file of a run, or the file itself.

        There is none for a model in MLflow or the Hub.
        """
        if is_reference(self.given):
            return ()
        given = Path(self.given)
        if os.path.isdir(given):
            return given / "model.onnx", given / "model.keras"
        return (given,) if runtime_of(given) is not None else (given.with_suffix(".onnx"), given)

    def file(self) -> Path:
        """Returns the file to open.

        Of a run folder or a Keras file that is the ONNX file beside it, if it is the same model: it needs neither
        Keras nor torch, and is faster.

        Raises:
            ArtifactError: there is no model, or what lies there is not readable.
            TrackingError: the MLflow store cannot be reached.
            HubError: the Hub cannot be reached.
        """
        if is_reference(self.given):
            return replace(self, given=model_file(self.given, every=True)).file()
        *exported, model = self.candidates
        if not exported:
            return model
        onnx = exported[0]
        has_model, has_onnx = os.path.isfile(model), os.path.isfile(onnx)
        if not has_model:
            if has_onnx:  # a run folder from which only the ONNX file was copied
                return onnx
            raise ArtifactError(f"{self.given}: holds no model.onnx and no model.keras" if os.path.isdir(self.given)
                                else f"{self.given}: no such model file")  # fmt: skip
        if not has_onnx:
            _log.warning("%s is served with Keras and torch; `kcv export %s` makes a faster file", model, self.given)
            return model
        reason = difference(onnx, model)
        if reason is None:
            return onnx
        _log.warning("%s %s: %s is served with Keras and torch", onnx, reason, model)
        return model


def difference(onnx: Path, model: Path) -> str | None:
    """Returns why an ONNX file does not stand for the Keras file beside it; None if it does.

    The description must be the same, and the weights those that it was exported from.
    """
    from kcv.artifact.file import read_info, weights_digest
    from kcv.inference.onnx_graph import read_graph
    from kcv.inference.onnx_model import OnnxInfo

    exported = OnnxInfo.from_metadata(read_graph(onnx).metadata, str(onnx))
    info = read_info(model)
    if exported.tta is not None:
        return f"averages the views of --tta={exported.tta}; name the file to serve it"
    if exported.precision != "float32":
        return f"is {exported.precision}; name the file to serve it"
    if not exported.weights_sha256:
        return "does not say which weights it holds; export it again"
    temperature = info.calibration.temperature if info.calibration else 1.0
    described = (info.class_names, info.image_size, info.resize, temperature, info.threshold, info.sets)
    if described != (
        exported.class_names, exported.image_size, exported.resize, exported.temperature, exported.threshold,
        exported.sets,
    ):  # fmt: skip
        return "describes another model; export it again"
    if exported.weights_sha256 != weights_digest(model):
        return "holds other weights; export it again"
    return None


def places(models: Iterable[str | Path]) -> list[Place]:
    """Returns the models of a command line, each `FILE`, `RUN` or `NAME=FILE`.

    Raises:
        UsageError: two models have the same name.
    """
    found: dict[str, Place] = {}
    for given in models:
        place = _place(given)
        if place.name in found:
            both = f"{found[place.name].given} and {place.given}"
            raise UsageError(f"serve: {both} have the same name; give one as NAME={place.given}.")
        found[place.name] = place
    if not found:
        raise UsageError("serve needs MODEL...: a model file or a run folder.")
    return list(found.values())


def _place(given: str | Path) -> Place:
    match = _NAMED.fullmatch(given) if isinstance(given, str) and not os.path.exists(given) else None
    named = match[2] if match else given
    if is_reference(named):
        return Place(match[1] if match else _clean(title_of(str(named))), str(named))
    path = expand_user(named)
    return Place(match[1] if match else _name_of(path), path)


def _name_of(path: Path) -> str:
    """Returns the name of a model: that of its file, or of its folder where all files are called the same."""
    whole = Path(os.path.abspath(path))
    stem = whole.name if os.path.isdir(path) else whole.stem
    if stem.lower() in _GENERAL:
        stem = whole.parent.name
    return _clean(stem)


def _clean(stem: str) -> str:
    """Returns a text as a name that clients can write in a URL."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:100]
    return name if _NAME.fullmatch(name) else "model"
