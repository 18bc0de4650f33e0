"""The head of every network: global pooling, dropout, logits."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras

FEATURES = "pool"
"""The layer that outputs the backbone's features, float [batch, features]."""
LOGITS = "logits"
HEAD = (FEATURES, "dropout", LOGITS)


def classify(x: keras.KerasTensor, num_classes: int, dropout: float) -> keras.KerasTensor:
    """Adds the head to a backbone.

    Args:
        x: feature maps, channels first: [batch, channels, height, width].
        num_classes: number of logits.
        dropout: fraction of the features dropped in training.

    Returns:
        Logits, float32 [batch, num_classes].
    """
    from keras import layers

    x = layers.GlobalAveragePooling2D(data_format="channels_first", name=FEATURES)(x)
    if dropout:
        x = layers.Dropout(dropout, name="dropout")(x)
    # Logits stay float32 under every dtype policy: softmax and cross-entropy need the precision.
    return layers.Dense(num_classes, dtype="float32", name=LOGITS)(x)
