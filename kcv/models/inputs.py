"""The input layers of every model: from RGB 0-255 NHWC to normalised channels-first images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Normalisation:
    """The normalisation of images: (x / 255 - mean) / sqrt(variance), for R, G and B.

    Attributes:
        mean: mean of images scaled to 0-1.
        variance: variance of images scaled to 0-1.
    """

    mean: tuple[float, ...]
    variance: tuple[float, ...]

    @classmethod
    def of(cls, pixels: NDArray[np.uint8]) -> Normalisation:
        """Computes the statistics of training images, uint8 [n, size, size, 3]."""
        mean, variance = channel_statistics(pixels)
        return cls(tuple(mean.tolist()), tuple(variance.tolist()))

    @classmethod
    def from_tensors(cls, mean: Any, variance: Any) -> Normalisation:
        """Copies the statistics of a layer, tensors or arrays of three numbers."""
        import keras
        import numpy as np

        def numbers(values: Any) -> tuple[float, ...]:
            return tuple(np.ravel(keras.ops.convert_to_numpy(values)).astype(float).tolist())

        return cls(numbers(mean), numbers(variance))


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229**2, 0.224**2, 0.225**2))
"""Statistics of ImageNet, with which torchvision's weights and Keras' EfficientNet were trained."""


def network_input(image_size: int, normalisation: Normalisation) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Creates the input of a model.

    Args:
        image_size: side of the images, in pixels.
        normalisation: normalisation of the images.

    Returns:
        The input, float32 [batch, image_size, image_size, 3] of RGB 0-255 (uint8 arrays are accepted too), and the
        normalised images, channels first: [batch, 3, image_size, image_size].
    """
    import keras
    from keras import layers

    # float32 under every dtype policy: in bfloat16, the last bits of every pixel would be lost.
    inputs = keras.Input((image_size, image_size, 3), dtype="float32", name="image")
    x = layers.Rescaling(1 / 255, dtype="float32", name="rescale")(inputs)
    x = layers.Normalization(
        axis=-1,
        mean=list(normalisation.mean),
        variance=list(normalisation.variance),
        dtype="float32",
        name="normalise",
    )(x)
    return inputs, layers.Permute((3, 1, 2), name="channels_first")(x)


def channel_statistics(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns mean and variance, float64 [3] each, of the RGB channels of uint8 images scaled to 0-1.

    A constant channel gets variance 1, so that it is only centred.
    """
    import numpy as np

    counts = np.stack([np.bincount(pixels[..., channel].ravel(), minlength=256) for channel in range(3)])
    share = counts / counts.sum(axis=1, keepdims=True)
    levels = np.arange(256) / 255
    mean = share @ levels
    variance = share @ levels**2 - mean**2
    return mean, np.where(variance > 1e-8, variance, 1.0)
