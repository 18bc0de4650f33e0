"""What systems leave among the files of people: thumbnails, waste bins, notes of file managers."""

from __future__ import annotations

from typing import Final

_NAMES: Final = frozenset({
    "__macosx", "icon\r", "network trash folder", "temporary items",  # macOS
    "@eadir", "#recycle", "#snapshot", "@tmp", "@sharebin",  # Synology
    "@recycle", "@recently-snapshot", "@__thumb",  # QNAP
    "$recycle.bin", "system volume information",  # Windows
    "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini",
    "lost+found", "__pycache__",
})  # fmt: skip


def is_clutter(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or was made by a system and not by a person."""
    return name.startswith(".") or name.lower() in _NAMES
