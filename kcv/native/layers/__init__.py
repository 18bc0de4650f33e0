"""The native forms of Keras' layers, by class."""

from __future__ import annotations

from collections.abc import Mapping

from keras import layers

from kcv.native.layers.activations import lower_activation, lower_elu, lower_leaky_relu, lower_relu, lower_softmax
from kcv.native.layers.convolution import lower_conv2d, lower_dense, lower_depthwise_conv2d
from kcv.native.layers.dropout import lower_dropout
from kcv.native.layers.lowered import Lowering
from kcv.native.layers.merging import (
    lower_add,
    lower_average,
    lower_concatenate,
    lower_maximum,
    lower_minimum,
    lower_multiply,
    lower_subtract,
)
from kcv.native.layers.normalization import lower_batch_normalization, lower_normalization, lower_rescaling
from kcv.native.layers.padding import lower_zero_padding2d
from kcv.native.layers.pooling import (
    lower_average_pooling2d,
    lower_global_average_pooling2d,
    lower_global_max_pooling2d,
    lower_max_pooling2d,
)
from kcv.native.layers.shape import lower_flatten, lower_identity, lower_permute, lower_reshape

LOWERINGS: Mapping[type, Lowering] = {
    layers.Activation: lower_activation,
    layers.Add: lower_add,
    layers.Average: lower_average,
    layers.AveragePooling2D: lower_average_pooling2d,
    layers.BatchNormalization: lower_batch_normalization,
    layers.Concatenate: lower_concatenate,
    layers.Conv2D: lower_conv2d,
    layers.Dense: lower_dense,
    layers.DepthwiseConv2D: lower_depthwise_conv2d,
    layers.Dropout: lower_dropout,
    layers.ELU: lower_elu,
    layers.Flatten: lower_flatten,
    layers.GlobalAveragePooling2D: lower_global_average_pooling2d,
    layers.GlobalMaxPooling2D: lower_global_max_pooling2d,
    layers.Identity: lower_identity,
    layers.LeakyReLU: lower_leaky_relu,
    layers.MaxPooling2D: lower_max_pooling2d,
    layers.Maximum: lower_maximum,
    layers.Minimum: lower_minimum,
    layers.Multiply: lower_multiply,
    layers.Normalization: lower_normalization,
    layers.Permute: lower_permute,
    layers.ReLU: lower_relu,
    layers.Rescaling: lower_rescaling,
    layers.Reshape: lower_reshape,
    layers.Softmax: lower_softmax,
    layers.SpatialDropout2D: lower_dropout,
    layers.Subtract: lower_subtract,
    layers.ZeroPadding2D: lower_zero_padding2d,
}
"""Keyed by the class itself: a subclass may compute something else, so it is called as it is."""
