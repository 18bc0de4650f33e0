"""Which folders of a level are called like splits, and where in them the class folders begin."""

from __future__ import annotations

from typing import Final

from kcv.data.folder_tree.split_names import split_of, split_within
from kcv.data.folder_tree.tree import Tree, join

MOST_WRAPPED: Final = 8
"""Folders in folders that are passed through to find splits; what is deeper is no wrapping."""


def named_splits(tree: Tree, place: str) -> dict[str, str]:
    """Returns the folders in a folder that are called like splits, and which ones."""
    exact = {folder: split for folder in tree.folders(place) if (split := split_of(folder))}
    if len(set(exact.values())) > 1:
        return exact
    rest = [folder for folder in tree.holding(place) if folder not in exact]
    within = {folder: split for folder in rest if (split := split_within(folder))}
    found = {**exact, **within}
    if not within or len(set(found.values())) < 2:
        return exact
    if len(within) == len(rest):
        return found
    classes = [set(tree.holding(unwrapped(tree, place, folder, split))) for folder, split in found.items()]
    return found if set.intersection(*classes) else exact


def unwrapped(tree: Tree, place: str, folder: str, split: str) -> str:
    """Returns the place of a split's class folders: in `train/train` they are in the inner folder."""
    place = join(place, folder)
    for _ in range(MOST_WRAPPED):
        holding = tree.holding(place)
        if len(holding) != 1 or tree.folder(place).count:
            break
        if holding[0] != folder and split_of(holding[0]) != split:
            break
        place = join(place, holding[0])
    return place
