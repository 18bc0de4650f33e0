"""Files that systems leave among user files: thumbnails, recycle bins, metadata of file managers."""

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
    """Returns whether a file or folder of this name is hidden, or was created by a system and not by a user."""
    return name.startswith(".") or name.lower() in _NAMES
