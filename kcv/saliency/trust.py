"""Measures how far the heat maps of a model can be trusted, on images of a split."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kcv.common.files import write_json
from kcv.common.progress import Progress
from kcv.common.untrusted import refusing
from kcv.data import loading
from kcv.errors import ArtifactError
from kcv.saliency.faithfulness import faithfulness
from kcv.saliency.randomisation import randomisation

if TYPE_CHECKING:
    import keras

    from kcv.data.dataset import Images

MOST_EXPLAINED = 64
"""A limit, because each image is computed about twenty times per method."""

_STEPS = 10


def measure_explanations(
    model: keras.Model, images: Images, folder: Path, file: Path, *, progress: bool = False
) -> dict[str, Any]:
    """Measures deletion, insertion and the sanity check of all methods, and writes `explanations.json`.

    Args:
        model: functional; maps RGB 0-255 [batch, size, size, 3] to logits.
        images: the split; up to `MOST_EXPLAINED` images are used, evenly spread.
        folder: the folder to write to.
        file: the model file, for messages.
        progress: whether to show a progress bar on a terminal.

    Returns:
        `pictures`: the number of images; `methods`: by name, the results of `kcv.saliency.faithfulness` and
        `.randomisation`. The method `random` is noise as coarse as the model's maps, for comparison.

    Raises:
        ArtifactError: the model cannot be explained.
        UsageError: the model has no layer to explain.
        OutputError: the folder cannot be written to.
    """
    chosen = loading.evenly(len(images), MOST_EXPLAINED)
    pixels = np.stack([images.read(int(index)) for index in chosen])
    # Heat maps are the first to differentiate the model, so this may be where it fails.
    with refusing(file, ArtifactError, "cannot be explained"):
        with Progress(len(pixels) if progress else None, "explain") as bar:
            advance = bar.advance if progress else None
            faithful = faithfulness(model, pixels, steps=_STEPS, batch_size=32, advance=advance)
        changed = randomisation(model, pixels)
    found = {
        "pictures": len(pixels),
        "methods": {name: {**figures, **changed.get(name, {})} for name, figures in faithful.items()},
    }
    write_json(folder / "explanations.json", found)
    return found
