"""The bytes of request bodies in memory, counted while they arrive."""

from __future__ import annotations

from kcv.serving.problems import busy


class Budget:
    """Bounds the bytes that all requests hold together. Used by the thread of the event loop alone.

    Args:
        most: the most bytes.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.held = 0

    def take(self, count: int) -> None:
        """Counts bytes that a request now holds.

        Raises:
            Problem: 503, as there are too many; they are not counted.
        """
        if self.held + count > self.most:
            raise busy("too many bytes wait to be classified; try again.")
        self.held += count

    def give_back(self, count: int) -> None:
        """Counts bytes as free again."""
        self.held -= count
