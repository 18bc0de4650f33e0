"""Traces keras-cv's layers into one stateless tensorflow graph that takes a batch with its key and augments it.

A batch's randomness is a pure function of its key, so that the order, the threads and earlier batches do not matter.
keras-cv itself draws from stateful generators: `tf.random.Generator` in each layer, and functions of `tf.random` whose
state is hidden in the operations. While the layers are traced, both are replaced by `Draws`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from kcv.data.augment.keras_cv import KerasCv, build_layers
from kcv.data.augment.layer_list import RANGE, reason
from kcv.errors import ConfigError

_STATEFUL: Final = ("TruncatedNormal", "ParameterizedTruncatedNormal", "Multinomial")
"""Operations with their own random state, besides those whose names begin with Random, Rng or Stateful."""


class Draws:
    """Random numbers of one traced graph: each call site has its own stream, keyed by the batch or the image.

    It replaces `tf.random.Generator` in layers, and the functions of `tf.random` that keep a hidden state.
    """

    def __init__(self, tf: Any) -> None:
        self._tf = tf
        self._keys: list[Any] = []
        self._sites = 0

    @contextmanager
    def keyed(self, key: Any) -> Iterator[None]:
        """Draws with a key, an int64 tensor [2], within the block."""
        self._keys.append(key)
        try:
            yield
        finally:
            self._keys.pop()

    def keys(self, count: Any) -> Any:
        """Returns new keys, int64 [count, 2]."""
        limits = {"minval": None, "maxval": None, "dtype": self._tf.int64}
        return self._functions.stateless_uniform([count, 2], seed=self._seed(), **limits)

    def uniform(
        self, shape: Any, minval: Any = 0, maxval: Any = None, dtype: Any = None, seed: Any = None, name: Any = None
    ) -> Any:
        """As `tf.random.uniform` and `tf.random.Generator.uniform`."""
        dtype = self._tf.float32 if dtype is None else dtype
        maxval = 1 if maxval is None else maxval
        return self._functions.stateless_uniform(shape, seed=self._seed(), minval=minval, maxval=maxval, dtype=dtype)

    def normal(
        self, shape: Any, mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = None, seed: Any = None, name: Any = None
    ) -> Any:
        """As `tf.random.normal` and `tf.random.Generator.normal`."""
        dtype = self._tf.float32 if dtype is None else dtype
        return self._functions.stateless_normal(shape, seed=self._seed(), mean=mean, stddev=stddev, dtype=dtype)

    def gamma(
        self, shape: Any, alpha: Any, beta: Any = None, dtype: Any = None, seed: Any = None, name: Any = None
    ) -> Any:
        """As `tf.random.gamma`: one number per element of `shape` and of `alpha`."""
        tf = self._tf
        dtype = tf.float32 if dtype is None else dtype
        alpha = tf.convert_to_tensor(alpha, dtype)
        shape = tf.concat([tf.cast(tf.reshape(shape, [-1]), tf.int32), tf.shape(alpha)], 0)
        return self._functions.stateless_gamma(shape, seed=self._seed(), alpha=alpha, beta=beta, dtype=dtype)

    def shuffle(self, value: Any, seed: Any = None, name: Any = None) -> Any:
        """As `tf.random.shuffle`: along the first axis."""
        return self._functions.experimental.stateless_shuffle(value, seed=self._seed())

    def _seed(self) -> Any:
        self._sites += 1
        return self._keys[-1] + self._tf.constant([0, self._sites], self._tf.int64)

    @property
    def _functions(self) -> Any:
        return self._tf.random

    @contextmanager
    def in_place_of_hidden_state(self) -> Iterator[None]:
        """Replaces the stateful functions of `tf.random` by these methods within the block."""
        names = ("uniform", "normal", "gamma", "shuffle")
        before = {name: getattr(self._tf.random, name) for name in names}
        try:
            for name in names:
                setattr(self._tf.random, name, getattr(self, name))
            yield
        finally:
            for name, function in before.items():
                setattr(self._tf.random, name, function)


def trace(library: KerasCv, entries: Sequence[Mapping[str, Any]], signature: tuple[Any, ...]) -> Callable[..., Any]:
    """Returns the graph of all layers; it maps key, images and targets to images and targets."""
    tf = library.tf
    layers = build_layers(library, entries)
    draws = Draws(tf)
    for layer in layers:
        _take_over(layer, draws, tf)

    def change(key: Any, images: Any, targets: Any) -> Any:
        first = tf.random.stateless_uniform([2], seed=key, minval=None, maxval=None, dtype=tf.int64)
        changed = {"images": tf.cast(images, tf.float32), "labels": targets}
        with draws.keyed(first), draws.in_place_of_hidden_state():
            for place, (layer, entry) in enumerate(zip(layers, entries, strict=True)):
                changed = _applied(tf, layer, changed, f"augment.layers[{place}]: {entry['name']}")
        return tf.clip_by_value(changed["images"], *map(float, RANGE)), changed["labels"]

    graph = tf.function(change, input_signature=signature, autograph=False).get_concrete_function()
    hidden = [
        kind for kind in _operations(graph) if kind in _STATEFUL or kind.startswith(("Random", "Rng", "Stateful"))
    ]
    if hidden:
        raise ConfigError(
            [f"augment.layers: draw numbers that no seed repeats ({', '.join(hidden)}); use other layers"]
        )
    return graph  # type: ignore[no-any-return]


def _applied(tf: Any, layer: Any, images: Mapping[str, Any], where: str) -> dict[str, Any]:
    def call(inputs: Any) -> Any:
        return layer(inputs)

    try:
        # Some layers use Python's `if` on tensors, which only AutoGraph supports.
        changed = tf.autograph.to_graph(call)(dict(images))
    except Exception as error:  # a third-party layer may raise anything while it is traced
        raise ConfigError([f"{where} cannot run here: {reason(error)}"]) from error
    for key, tensor in images.items():
        got, wanted = changed[key].shape[1:], tensor.shape[1:]
        if not got.is_compatible_with(wanted):
            sizes = [" x ".join(map(str, shape)) for shape in (got, wanted)]
            raise ConfigError([f"{where} gives {key} of {sizes[0]} instead of {sizes[1]}; change its arguments"])
    return {key: tf.ensure_shape(changed[key], tensor.shape) for key, tensor in images.items()}


def _take_over(layer: Any, draws: Draws, tf: Any) -> None:
    """Makes a layer and its nested layers draw from `draws`, separately for each image."""
    for inner in layer._flatten_layers():
        if hasattr(inner, "_random_generator"):
            inner._random_generator = draws
        if hasattr(inner, "_map_fn"):
            inner._map_fn = _for_each_image(inner, draws, tf)


def _for_each_image(layer: Any, draws: Draws, tf: Any) -> Callable[..., Any]:
    """Returns the layer's function to augment images one by one, with a separate key per image.

    One graph is traced for all images of a batch, so with the batch's key all images would be augmented identically.
    """

    def map_fn(function: Callable[[Any], Any], inputs: Mapping[str, Any]) -> Any:
        def one(both: Any) -> Any:
            image, key = both
            with draws.keyed(key):
                return function(image), key

        way = tf.vectorized_map if layer.auto_vectorize else tf.map_fn
        changed, _ = way(one, (inputs, draws.keys(tf.shape(inputs["images"])[0])))
        return changed

    return map_fn


def _operations(graph: Any) -> list[str]:
    """Returns the operation types of a graph, including those in its functions."""
    definition = graph.graph.as_graph_def()
    nodes = [*definition.node, *(node for function in definition.library.function for node in function.node_def)]
    return sorted({node.op for node in nodes})
