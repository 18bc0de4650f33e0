"""Class folders in an object store: `s3://bucket/prefix/<class>/*.jpg`, by the rules for folders on disk."""

from __future__ import annotations

from pathlib import Path

from kcv.data.dataset import Source
from kcv.data.folder_tree.source import read_tree
from kcv.data.folder_tree.tree import tree_of
from kcv.data.objects.images import ObjectImages
from kcv.data.objects.place import ObjectPlace


def open_source(place: ObjectPlace) -> Source:
    """Lists the images below the class folders of a prefix without fetching them.

    Order, splits and classes are those of the same folder on disk (`kcv.data.folder_tree`).

    Args:
        place: the objects below the prefix.

    Raises:
        DataError: there are no class folders, or no images in them, or they can be read in two ways.
    """
    tree = tree_of(place.names, Path(place.root.key or place.root.bucket))
    return read_tree(tree, place.url, lambda names: ObjectImages.of(place, names))
