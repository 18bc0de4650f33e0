"""Writes heat maps to files: per image an overlay, a side-by-side view and the values; a grid of the first images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kcv import images
from kcv.common.files import atomic
from kcv.common.text import cut_to_bytes
from kcv.errors import ImageError
from kcv.inference.classifier import Classifier
from kcv.reporting import plots
from kcv.saliency.explanation import Explaining

COLUMNS = ("path", "label", "probability", "overlay", "side_by_side", "heatmap", "warning", "error")
"""The keys of a row."""

GRID = "grid.png"

_FLAT = "flat map: no part of the image speaks more for this class than another"
_LONGEST_STEM, _LONGEST_BYTES = 60, 150
"""Characters and bytes of an image's name kept in its files' names; a file name may have 255 bytes."""


class HeatMapFiles:
    """Explains images batch by batch and writes the files of each; keeps the first images for the grid.

    Args:
        model: the model whose predictions are explained.
        explaining: explains batches of images.
        position: index of the class to explain; None: each image's most probable class.
        folder: the output folder.
    """

    def __init__(self, model: Classifier, explaining: Explaining, position: int | None, folder: Path) -> None:
        self._model = model
        self._explaining = explaining
        self._position = position
        self._folder = folder
        self._names = FileNames()
        self._grid: list[tuple[NDArray[np.uint8], NDArray[np.float32], str]] = []
        self._note = explaining.note

    def rows(self, files: Sequence[Path], batch_size: int) -> Iterator[dict[str, Any]]:
        """Yields one row per file, in order."""
        for start in range(0, len(files), batch_size):
            yield from self._batch(files[start : start + batch_size])
        if len(self._grid) > 1:
            pixels, heatmaps, titles = zip(*self._grid, strict=True)
            plots.save_gradcam_grid(pixels, heatmaps, titles, self._folder / GRID, note=self._note)

    def _batch(self, files: Sequence[Path]) -> Iterator[dict[str, Any]]:
        decoded = [self._decode(path) for path in files]
        readable = [image for image in decoded if not isinstance(image, ImageError)]
        explained = iter(self._explain(np.stack(readable)) if readable else ())
        for path, image in zip(files, decoded, strict=True):
            if isinstance(image, ImageError):
                yield {**dict.fromkeys(COLUMNS), "path": str(path), "error": str(image)}
            else:
                yield self._written(path, image, *next(explained))

    def _decode(self, path: Path) -> NDArray[np.uint8] | ImageError:
        try:
            return images.load(path, self._model.image_size, self._model.resize)
        except ImageError as error:
            return error

    def _explain(self, pixels: NDArray[np.uint8]) -> Iterator[tuple[NDArray[np.float32], str, float]]:
        """Yields heat map, class and probability of each image."""
        done = self._explaining.explain(pixels, self._position)
        names = [self._model.class_names[position] for position in done.classes]
        yield from zip(done.maps, names, done.probabilities.tolist(), strict=True)

    def _written(
        self, path: Path, pixels: NDArray[np.uint8], heat: NDArray[np.float32], name: str, probability: float
    ) -> dict[str, Any]:
        """Writes the files of one image and returns its row."""
        stem = self._names.of(path)
        overlay, beside, raw = (
            self._folder / f"{stem}_{kind}" for kind in ("overlay.png", "side_by_side.png", "heatmap.npy")
        )
        title = plots.title_of(name, probability)
        plots.save_overlay(pixels, heat, overlay)
        plots.save_side_by_side(pixels, heat, beside, title=title, note=self._note)
        with atomic(raw) as temporary:
            np.save(temporary, heat)
        if len(self._grid) < plots.MOST_IN_GRID:
            self._grid.append((pixels, heat, title))
        warning = "" if heat.any() else _FLAT
        row = (str(path), name, probability, str(overlay), str(beside), str(raw), warning, "")
        return dict(zip(COLUMNS, row, strict=True))


class FileNames:
    """Assigns each image a unique file name, also on case-insensitive file systems."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def of(self, path: Path) -> str:
        """Returns the stem of an image's name, numbered if it is taken: `cat`, `cat-2`, `cat-3`."""
        stem = cut_to_bytes(path.stem[:_LONGEST_STEM], _LONGEST_BYTES)
        name, number = stem, 1
        while name.casefold() in self._taken:
            number += 1
            name = f"{stem}-{number}"
        self._taken.add(name.casefold())
        return name
