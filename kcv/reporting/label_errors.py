"""Writes the suspected labels of a data set: a table, and one page with the images."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from kcv import __version__
from kcv.common.files import write_csv, write_text
from kcv.errors import ImageError
from kcv.images import load
from kcv.metrics.confident_learning import find_label_errors
from kcv.reporting.page import template

if TYPE_CHECKING:
    from kcv.data.dataset import Samples

COLUMNS: Final = ("path", "label", "suggested", "probability", "probability_of_label")
CSV, PAGE = "label_errors.csv", "label_errors.html"
MOST_SHOWN: Final = 200
"""The most images on the page; all suspects are in the table."""

_SIDE: Final = 112  # pixels


@dataclass(frozen=True)
class SuspectedLabels:
    """The images whose labels are probably wrong.

    Attributes:
        rows: one per suspect, most likely first: `COLUMNS`; the class names as text, the probabilities as numbers 0-1.
        positions: of the suspects among the images, int64.
        images: how many images were looked at.
        estimated: see `kcv.metrics.confident_learning.LabelErrors`.
    """

    rows: Sequence[dict[str, Any]]
    positions: NDArray[np.int64]
    images: int
    estimated: float

    def to_dict(self) -> dict[str, Any]:
        """Returns all of it as plain values."""
        return {
            "pictures": self.images,
            "estimated": self.estimated,
            "suspects": len(self.rows),
            "rows": list(self.rows),
        }


def suspected_labels(
    names: Sequence[str],
    labels: NDArray[np.int64],
    probabilities: NDArray[np.floating[Any]],
    class_names: Sequence[str],
) -> SuspectedLabels:
    """Finds the images whose labels are probably wrong; see `kcv.metrics.confident_learning`.

    Args:
        names: the name of each image.
        labels: class positions, int64 [n].
        probabilities: [n, classes], of a model that was not trained on the images.
        class_names: the classes, in order.
    """
    found = find_label_errors(labels, probabilities)
    rows = [
        {
            "path": names[position],
            "label": class_names[labels[position]],
            "suggested": class_names[suggested],
            "probability": float(probabilities[position, suggested]),
            "probability_of_label": float(probabilities[position, labels[position]]),
        }
        for position, suggested in zip(found.positions.tolist(), found.suggested.tolist(), strict=True)
    ]
    return SuspectedLabels(rows, found.positions, len(labels), found.estimated)


def write_label_errors(folder: Path, found: SuspectedLabels, samples: Samples, *, data: str, measured: str) -> None:
    """Writes `label_errors.csv`, with all suspects, and `label_errors.html`, with the images of the first.

    Args:
        folder: the folder; created if missing.
        found: the suspects.
        samples: the images that their positions point to.
        data: the name of the data, for the page.
        measured: where the probabilities are from, for the page.

    Raises:
        OutputError: a file cannot be written.
    """
    write_csv(folder / CSV, COLUMNS, [[row[column] for column in COLUMNS] for row in found.rows])
    shown = [
        {**row, "image": _thumbnail(samples, int(position))}
        for row, position in zip(found.rows[:MOST_SHOWN], found.positions[:MOST_SHOWN], strict=True)
    ]
    page = template("label_errors.html.jinja").render(
        title="Suspected labels",
        data=data,
        measured=measured,
        images=found.images,
        suspects=len(found.rows),
        rows=shown,
        table=CSV,
        version=__version__,
    )
    write_text(folder / PAGE, page)


def _thumbnail(samples: Samples, position: int) -> str | None:
    """Returns a small image as a URI that holds it (RFC 2397); None if it cannot be read."""
    from PIL import Image

    try:
        pixels = load(samples.images[position], _SIDE, "letterbox", name=samples.names[position])
    except (ImageError, OSError):
        return None
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"
