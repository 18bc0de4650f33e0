"""A served model: its name, the version that answers, and how a new one takes its place."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kcv.common.text import printable
from kcv.errors import ArtifactError, KcvError
from kcv.inference.classifier import Classifier, is_onnx, open_classifier
from kcv.inference.reference import Reference
from kcv.serving.place import Place

_log = logging.getLogger(__name__)

_HEX = 12  # digits of a version
_READ = 2**20  # bytes per read


@dataclass(frozen=True, eq=False)
class Version:
    """A model file that is open and warm.

    Attributes:
        name: the name of the model.
        digest: the version: the first digits of the file's SHA-256.
        path: the file.
        classifier: the opened file.
        precision: precision of its weights.
        reference: how the model answered on the test split; None if the file does not say so.
    """

    name: str
    digest: str
    path: Path
    classifier: Classifier
    precision: str
    reference: Reference | None

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class names, in the order of the probabilities."""
        return self.classifier.class_names

    @property
    def batch(self) -> int:
        """The most images that a worker classifies at once."""
        return self.classifier.preferred_batch

    @property
    def is_concurrent(self) -> bool:
        """Whether each worker should compute on a core of its own."""
        return self.classifier.concurrent


def open_version(name: str, path: Path, device: str) -> Version:
    """Opens a model file, checks it, and runs it once, so that the first request waits for nothing.

    Raises:
        ArtifactError: the file cannot be opened or run, or changed meanwhile.
        DeviceError: the device is not available.
    """
    before = signature(path)
    digest = _digest(path)
    classifier = open_classifier(path, device=device, threads=1)
    size = classifier.image_size
    for count in (1, classifier.preferred_batch):
        classifier.predict_pixels(np.zeros((count, size, size, 3), np.uint8))
    if signature(path) != before:
        raise ArtifactError(f"{path}: changed while it was opened")
    precision = getattr(classifier.info, "precision", "float32") if is_onnx(path) else "float32"
    return Version(name, digest, path, classifier, precision, _reference(classifier))


def _reference(classifier: Classifier) -> Reference | None:
    info = classifier.info
    return info.reference if hasattr(info, "reference") else Reference.from_metrics(getattr(info, "metrics", None))


def signature(path: Path) -> tuple[int, ...] | None:
    """Returns what changes when a file is written or replaced; None if there is no such file."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _digest(path: Path) -> str:
    found = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while block := stream.read(_READ):
                found.update(block)
    except OSError as error:
        reason = "no such model file" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        raise ArtifactError(f"{path}: {reason}") from None
    return found.hexdigest()[:_HEX]


class Served:
    """A model under its name, in the version that answers now.

    Args:
        place: where the model comes from.
        device: the device to run on.

    Raises:
        ArtifactError: the model cannot be opened.
        DeviceError: the device is not available.
    """

    def __init__(self, place: Place, device: str) -> None:
        self.place = place
        self._device = device
        self._reloading = threading.Lock()
        self.seen = self.look()
        self.version = open_version(place.name, place.file(), device)

    @property
    def name(self) -> str:
        """The name of the model."""
        return self.place.name

    def look(self) -> tuple[tuple[int, ...] | None, ...]:
        """Returns what changes when a file of the model is written; `seen` is what it was when one was last opened."""
        return tuple(map(signature, self.place.candidates))

    def reload(self) -> bool:
        """Opens the file again, and lets it answer in place of the old one; requests that have begun end on the old.

        A file that cannot be opened, or has other class names, is refused in one line, and the old model answers on.

        Returns:
            Whether the file answers now.
        """
        with self._reloading:
            self.seen = self.look()
            try:
                path = self.place.file()
                found = open_version(self.name, path, self._device)
                if found.class_names != self.version.class_names:
                    raise ArtifactError(f"{path}: has other classes than the model that is served; restart to serve it")
                if found.is_concurrent != self.version.is_concurrent:
                    raise ArtifactError(f"{path}: is another kind of file; restart to serve it")
            except KcvError as error:
                _log.warning("%s: not reloaded, version %s answers on: %s", self.name, self.version.digest, error)
                return False
            if found.digest != self.version.digest:
                _log.info("%s: version %s answers in place of %s", self.name, found.digest, self.version.digest)
            self.version = found
            return True


def describe(version: Version) -> str:
    """Returns a version in one line for the operator."""
    classes = f"{len(version.class_names):,} classes"
    return printable(f"{version.name}: {version.path}, {version.precision}, {classes}, version {version.digest}")
