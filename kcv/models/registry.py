"""The models: Keras functional graphs that take RGB 0-255 images and give logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kcv.config import ModelConfig
from kcv.errors import ConfigError
from kcv.models.catalog import MIN_TRANSFER_SIZE, entry_of
from kcv.models.weights.loading import load as load_weights

if TYPE_CHECKING:
    import keras

    from kcv.models.weights.pretrained import Pretrained

__all__ = ["build", "entry_of", "load_weights", "variant_of"]

_DROPOUT = 0.3
"""Before the logits of a network for ImageNet, where the configuration names none; the custom CNN has none then."""


def variant_of(config: ModelConfig, pretrained: Pretrained | None) -> str | None:
    """Returns which variant of an architecture is built; None where there is only one."""
    if config.name == "custom_cnn":
        return None
    from kcv.models import transfer

    return (pretrained and pretrained.variant) or transfer.default_variant(config.name)


def build(
    config: ModelConfig,
    image_size: int,
    num_classes: int,
    pixels: NDArray[np.uint8],
    pretrained: Pretrained | None = None,
    *,
    class_names: Sequence[str] | None = None,
) -> keras.Model:
    """Builds a model under Keras' current dtype policy and device.

    Args:
        config: which model, and its options.
        image_size: side of the square images it will take, in pixels.
        num_classes: width of the logits.
        pixels: uint8 [n, image_size, image_size, 3], training images that a model may fit its input layers to
            (normalisation, whitening); a few thousand are enough.
        pretrained: weights to start from, as `load_weights` gives them.
        class_names: of the logits. If the weights were trained for the same ones, theirs are taken for the logits too.

    Returns:
        An uncompiled functional model of standard Keras layers: float32 [batch, image_size, image_size, 3] holding RGB
        0-255 in, float32 logits [batch, num_classes] out.

    Raises:
        ConfigError: the images are too small for the model.
        WeightsError: the weights do not fit.
    """
    normalisation = pretrained.normalisation if pretrained else None
    variant = variant_of(config, pretrained)
    if variant is None:
        from kcv.models import cnn

        dropout = config.dropout or 0.0
        model = cnn.build(
            image_size, num_classes, pixels, width=config.width, dropout=dropout, normalisation=normalisation
        )
    else:
        from kcv.models import transfer

        if image_size < MIN_TRANSFER_SIZE:
            raise ConfigError(
                [f"data.image_size: {config.name} takes images of {MIN_TRANSFER_SIZE} px or more, not {image_size}."]
            )
        dropout = _DROPOUT if config.dropout is None else config.dropout
        model = transfer.build(
            config.name, image_size, num_classes, dropout=dropout, variant=variant, normalisation=normalisation
        )
    if pretrained:
        same = class_names is not None and pretrained.class_names == tuple(class_names)
        pretrained.assign(model, head=same)
    return model
