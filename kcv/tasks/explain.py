"""Where on images a model found what speaks for a class: heat maps, drawn and as numbers (decision 008)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kcv import artifact, images
from kcv.common.download import is_url
from kcv.common.files import atomic
from kcv.common.text import cut_to_bytes
from kcv.common.untrusted import inside, refusing
from kcv.errors import ArtifactError, DataError, ImageError, OutputError
from kcv.inference import opening
from kcv.inference.keras_model import LoadedModel
from kcv.reporting import plots

if TYPE_CHECKING:
    from kcv.saliency.explainer import Explainer

COLUMNS = ("path", "label", "probability", "overlay", "side_by_side", "heatmap", "warning", "error")
"""What a row says."""

FOLDER = "explanations"
GRID = "grid.png"

_FLAT = "flat map: no part of the image speaks more for this class than another"
_LONGEST_STEM, _LONGEST_BYTES = 60, 150
"""Characters and bytes of an image's name that its files keep; a file name has room for 255 bytes."""


def explain(
    paths: str | Path | Iterable[str | Path],
    model: str | Path | LoadedModel,
    *,
    method: str = "gradcam",
    class_name: str | None = None,
    layer: str | None = None,
    output: str | Path | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    recursive: bool = False,
) -> Iterator[dict[str, Any]]:
    """Draws heat maps of images.

    Everything is checked, and the model is opened, when this is called; images are explained as the rows are taken. An
    image that cannot be read gives a row that says so.

    Args:
        paths: images, folders and glob patterns.
        model: a `.keras` file, or a loaded model.
        method: `gradcam`, `gradcam++`, `hirescam` or `layercam`; see `kcv.saliency.methods`.
        class_name: the class to explain, by default each image's most probable one.
        layer: the layer to look at, by default the last with height and width.
        output: the folder for the files, by default `explanations` beside the model.
        batch_size: images a batch; by default chosen by their size.
        device: where to run, if `model` is a file.
        recursive: whether a folder stands for all below it, not only for its own images.

    Returns:
        Rows: `path`; `label` and `probability` (0-1) of the explained class; the files `overlay` (PNG), `side_by_side`
        (PNG) and `heatmap` (.npy: float32 [image_size, image_size] in 0-1); `warning` ("" where there is none: of a map
        that is flat); `error` ("" where fine; else all but `path` are None). After the last row the folder holds
        `grid.png` and `grid.svg` with the first 36 images, if there are two or more.

    Raises:
        DataError: a path does not exist or stands for no image.
        ArtifactError: the model cannot be opened or run.
        UsageError: there is no such method, class or layer.
        OutputError: the folder beside the model is a link, or a file cannot be written (while rows are taken).
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    if urls := [path for path in given if is_url(path)]:
        raise DataError(f"{urls[0]}: explain reads no URLs; download the image first.")
    # All names at once: the images that are about to be written must not be found among them.
    files = list(images.find(given, recursive=recursive))
    if isinstance(model, str | Path):
        artifact.read_info(model)  # says what is wrong with a file before anything heavy is imported
    from kcv.saliency.explainer import check_method, class_position, explainer_of

    check_method(method)
    loaded = model if isinstance(model, LoadedModel) else opening.load(model, device=device)
    position = class_position(loaded, class_name)
    explainer = explainer_of(loaded, layer)
    folder = Path(output) if output is not None else inside(loaded.path.parent, FOLDER, error=OutputError)
    job = _Job(loaded, explainer, method, position, folder)
    return job.rows(files, batch_size or loaded.preferred_batch)


class _Job:
    """What is done to each batch of files, and what is kept for the grid."""

    def __init__(
        self, model: LoadedModel, explainer: Explainer, method: str, position: int | None, folder: Path
    ) -> None:
        self._model = model
        self._explainer = explainer
        self._method = method
        self._position = position
        self._folder = folder
        self._names = FileNames()
        self._grid: list[tuple[NDArray[np.uint8], NDArray[np.float32], str]] = []
        self._note = f"{method} at {explainer.target.layer}"

    def rows(self, files: Sequence[Path], batch_size: int) -> Iterator[dict[str, Any]]:
        """Yields a row a file, in order."""
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
        positions = None if self._position is None else [self._position] * len(pixels)
        with refusing(self._model.path, ArtifactError, "cannot be explained"):
            done = self._explainer.explain(pixels, classes=positions, methods=[self._method])
        heatmaps = done.maps[self._method].cpu().numpy()
        names = [self._model.class_names[position] for position in done.classes.tolist()]
        logits = self._model.finite(done.logits.cpu().numpy())
        probabilities = self._model.calibration.probabilities(logits)
        shown = probabilities[np.arange(len(pixels)), done.classes.cpu().numpy()]
        yield from zip(heatmaps, names, shown.tolist(), strict=True)

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
    """Gives each image a name for its files that no other has, on file systems that ignore case, too."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def of(self, path: Path) -> str:
        """Returns the stem of an image's name, with a number where it is taken: `cat`, `cat-2`, `cat-3`."""
        stem = cut_to_bytes(path.stem[:_LONGEST_STEM], _LONGEST_BYTES)
        name, number = stem, 1
        while name.casefold() in self._taken:
            number += 1
            name = f"{stem}-{number}"
        self._taken.add(name.casefold())
        return name
