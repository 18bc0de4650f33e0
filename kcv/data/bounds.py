"""How many classes there may be, and how long their names: what is more is no mistake of a person."""

from __future__ import annotations

MOST_CLASSES = 100_000
MOST_NAME = 1_000
"""Characters."""
