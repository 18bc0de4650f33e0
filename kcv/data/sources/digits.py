"""scikit-learn's handwritten digits as 32x32 RGB: real data that is always available."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kcv.data.sources import NamedSource, register

if TYPE_CHECKING:
    import numpy as np

    from kcv.data.dataset import Encoded, Source

_NAME = "digits"
SIZE = 32
_SEED = 0  # seed of the train/test split; a fixed part of `digits`, so that every run has the same test images
_TEST_FRACTION = 0.2


def open_source() -> Source:
    """Returns the 1,797 digits with a fixed, stratified 80/20 split into train and test.

    The originals are 8x8 with 17 grey levels (0 paper, 16 ink; Alpaydin and Kaynak, UCI 1998). They are scaled to
    0-255, enlarged to 32x32 by Pillow's bicubic interpolation and repeated over three channels.
    """
    import numpy as np
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    from kcv.data.dataset import Samples, Source

    bunch = load_digits()
    grey = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    labels = bunch.target.astype(np.int64)
    images: list[Encoded] = [_enlarge(image) for image in grey]
    everything = Samples(images, labels, [f"digits/{i}" for i in range(len(labels))])
    train, test = train_test_split(
        np.arange(len(labels)), test_size=_TEST_FRACTION, stratify=labels, random_state=_SEED, shuffle=True
    )
    splits = {"train": everything.take(np.sort(train)), "test": everything.take(np.sort(test))}
    return Source(_NAME, tuple(str(digit) for digit in range(10)), splits, image_size=SIZE)


def _enlarge(grey: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    import numpy as np
    from PIL import Image

    large = Image.fromarray(grey).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    return np.repeat(np.asarray(large)[:, :, None], 3, axis=2)


register(NamedSource(_NAME, "1,797 handwritten digits, always at hand", open_source, default=True))
