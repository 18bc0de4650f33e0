"""Finding the images that look most like one, by the angle between feature vectors.

image -> its vector, from the file or the model -> cosine with all others, batch by batch -> the nearest
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from kcv.common.files import expand_user
from kcv.common.parameters import AtLeast, Device, checked
from kcv.errors import DataError, UsageError
from kcv.inference.locating import model_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kcv.inference.vector_file import VectorFile


@dataclass(frozen=True)
class Similar:
    """The images of a file that are most like one.

    Attributes:
        image: the image.
        rows: `path`, `similarity` (-1 to 1, the cosine of the angle between the vectors) and `label`, the class that
            the model answered; the most similar first.
        compared: the number of images that it was compared with.
    """

    image: str
    rows: list[dict[str, Any]]
    compared: int

    def to_dict(self) -> dict[str, Any]:
        """Returns all of it as plain values."""
        return {"image": self.image, "compared": self.compared, "similar": self.rows}


@checked
def similar(
    image: str | Path,
    to: str | Path,
    *,
    model: str | Path | None = None,
    top: Annotated[int, AtLeast(1)] = 10,
    device: Device = "auto",
) -> Similar:
    """Find the images that look most like one.

    Args:
        image: the image; its path, or one of the paths in the file.
        to: file of vectors that `embed` has written.
        model: the model that the vectors are of; default: none, for an image that is in the file itself. A model file
            or a run folder, or a model in MLflow or the Hub.
        top: number of images to show.
        device: where to compute the vector of an image that is not in the file.

    Raises:
        DataError: the file holds no vectors, or those of another model.
        ImageError: the image cannot be read.
        UsageError: the image is not in the file, and no model is named.
        ArtifactError: the model cannot be opened.

    Example:
        $ kcv similar photos/cat.jpg --to=vectors.parquet
        $ kcv similar new.jpg --to=vectors.parquet --model=runs/mine --top=20
        >>> kcv.similar("new.jpg", "vectors.parquet", model="runs/mine").rows[:3]
    """
    from kcv.inference.vector_file import VectorFile

    file = VectorFile(expand_user(to))
    wanted = _stored(str(image), file)
    if wanted is None:
        if model is None:
            raise UsageError(f"{image}: is not in {to}; --model=MODEL names the model that its vectors are of.")
        wanted = _computed(image, model_file(model), file, device)
    return _nearest(str(image), wanted, file, top)


def _stored(image: str, file: VectorFile) -> NDArray[np.float32] | None:
    """Returns the vector of an image that is in a file; None if it is not there."""
    for paths, _, vectors in file.batches():
        if image in paths:
            found: NDArray[np.float32] = vectors[paths.index(image)]
            return found
    return None


def _computed(image: str | Path, model: Path, file: VectorFile, device: str) -> NDArray[np.float32]:
    from kcv import images
    from kcv.common.download import is_url
    from kcv.inference.embedding import open_embedder
    from kcv.inference.vector_file import require_same

    if is_url(image):
        raise DataError(f"{image}: similar reads no URLs; download the image first.")
    embedder = open_embedder(model, device=device)
    require_same(file, embedder.origin, model)
    classifier = embedder.model
    pixels = images.load(expand_user(image), classifier.image_size, classifier.resize, name=str(image))
    vectors: NDArray[np.float32] = embedder.run(pixels[None])[0]
    found: NDArray[np.float32] = vectors[0]
    return found


def _nearest(image: str, wanted: NDArray[np.float32], file: VectorFile, top: int) -> Similar:
    from kcv.inference.picking import unit_vectors

    direction = unit_vectors(wanted[None])[0]
    found: list[tuple[float, int, str, str]] = []
    seen = compared = 0
    for paths, labels, vectors in file.batches():
        for path, label, cosine in zip(paths, labels, (unit_vectors(vectors) @ direction).tolist(), strict=True):
            seen += 1
            if path == image:
                continue
            compared += 1
            entry = (cosine, -seen, path, label)  # of equal ones, the first in the file comes first
            if len(found) < top:
                heapq.heappush(found, entry)
            elif entry > found[0]:
                heapq.heapreplace(found, entry)
    rows = [
        {"path": path, "similarity": min(1.0, max(-1.0, cosine)), "label": label}
        for cosine, _, path, label in sorted(found, reverse=True)
    ]
    return Similar(image, rows, compared)
