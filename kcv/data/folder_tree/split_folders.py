"""Finds folders named like splits on a level of a tree, and the class folders in them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from kcv.data.folder_tree.tree import Tree, join

MOST_WRAPPED: Final = 8
"""The maximum depth of wrapping folders that are skipped to find splits."""


def named_splits(tree: Tree, place: str) -> dict[str, str]:
    """Returns the subfolders of a folder that are named like splits, with their splits."""
    exact = splits_of(tree.folders(place))
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


def splits_of(names: Iterable[str]) -> dict[str, str]:
    """Returns the names that are those of splits, with their splits.

    `eval` and `evaluation` mean the test split, as in Hugging Face datasets; beside another test split, and where there
    is no other validation split, they mean that.

    Example:
        >>> splits_of(["train", "eval"])["eval"], splits_of(["train", "eval", "test"])["eval"]
        ('test', 'val')
    """
    found = {name: split for name in names if (split := split_of(name))}
    evals = [name for name in found if _folded(name) in _EITHER]
    others = {split for name, split in found.items() if name not in evals}
    return found | (dict.fromkeys(evals, "val") if "test" in others and "val" not in others else {})


def unwrapped(tree: Tree, place: str, folder: str, split: str) -> str:
    """Returns the folder that contains a split's class folders: for `train/train`, the inner one."""
    place = join(place, folder)
    for _ in range(MOST_WRAPPED):
        holding = tree.holding(place)
        if len(holding) != 1 or tree.folder(place).count:
            break
        if holding[0] != folder and split_of(holding[0]) != split:
            break
        place = join(place, holding[0])
    return place


WORDS: Final = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
"""Common names of splits, in lower case, as in Hugging Face datasets."""

_EITHER: Final = ("eval", "evaluation")
"""Words that people use for validation and for test."""

_TOKEN: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_SETS: Final = re.compile(rf"({'|'.join(sorted(WORDS, key=len, reverse=True))})(?:set|data|images?|imgs?|pics?)?")


def split_of(name: str) -> str | None:
    """Returns the split that a folder name stands for, ignoring case; None if it is not the name of a split.

    Example:
        >>> split_of("Training"), split_of("DEV"), split_of("seg_train")
        ('train', 'val', None)
    """
    return WORDS.get(_folded(name))


def _folded(name: str) -> str:
    return name.strip().casefold()


def split_within(name: str) -> str | None:
    """Returns the only split that words in a name refer to, as in `seg_train`, `test1` or `TrainImages`; else None."""
    found = {WORDS[match[1]] for token in _TOKEN.findall(name) if (match := _SETS.fullmatch(token.lower()))}
    return found.pop() if len(found) == 1 else None
