"""keras-cv's layers in a tf.data pipeline: batches in, changed batches out, ahead of their use, in graph mode.

A batch's randomness is a pure function of its key, so that order, threads and what came before decide nothing. keras-cv
draws from generators with a state of their own instead: `tf.random.Generator` in each layer, and functions of `tf.random`
whose state is hidden in the operations. While the layers are traced into one graph, both are replaced by `_Draws`.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from torch import Tensor

from kcv.data.kerascv import RANGE, KerasCv, build_layers, open_kerascv
from kcv.errors import ConfigError, first_line

Plain: TypeAlias = tuple[tuple[int, int], Tensor, Tensor]
"""Key of a batch (two numbers below 2**63); images, uint8 [b, size, size, 3]; targets, float32 [b, classes]."""

_AHEAD: Final = 2
"""Finished batches that wait for their use."""

_THREADS: Final = 2
"""Batches that are changed at the same time; each has tensorflow's threads within."""

_STATEFUL: Final = ("TruncatedNormal", "ParameterizedTruncatedNormal", "Multinomial")
"""Operations that draw from a state of their own, besides those whose names begin with Random, Rng or Stateful."""


class Pipeline:
    """A configuration's keras-cv layers, as one graph within tf.data.

    Args:
        layers: `augment.layers`, validated.
        image_size: side of the pictures, px.
        num_classes: width of the targets.
        device: where the results are wanted; the layers run on the CPU.

    Raises:
        ConfigError: the extra is missing, or a layer is unknown, wrongly called, or cannot run here.
    """

    def __init__(
        self, layers: Sequence[Mapping[str, Any]], *, image_size: int, num_classes: int, device: torch.device | str
    ) -> None:
        library = open_kerascv()
        self._tf = library.tf
        self._device = torch.device(device)
        self._signature = (
            self._tf.TensorSpec([2], self._tf.int64),
            self._tf.TensorSpec([None, image_size, image_size, 3], self._tf.uint8),
            self._tf.TensorSpec([None, num_classes], self._tf.float32),
        )
        self._changed = _trace(library, layers, self._signature)
        # What only shows when it runs: better now than in the first step of a run.
        noise = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, image_size, image_size, 3), np.uint8))
        try:
            images, targets = self(((0, 0), noise, torch.full((4, num_classes), 1 / num_classes)))
        except self._tf.errors.OpError as error:
            raise ConfigError(
                [f"augment.layers: cannot run on pictures of {image_size} px: {first_line(error)}"]
            ) from error
        if not (images.isfinite().all() and targets.isfinite().all()):
            raise ConfigError(["augment.layers: give values that are no numbers; change their arguments"])

    def __call__(self, batch: Plain) -> tuple[Tensor, Tensor]:
        """Returns one batch as `stream` would give it."""
        (changed,) = self.stream(iter([batch]))
        return changed

    def stream(self, batches: Iterator[Plain]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the changed batches, in order, computed ahead in tensorflow's threads.

        Args:
            batches: pulled from one other thread, ahead of what is yielded; never again once this generator is closed.

        Returns:
            Images, float32 in 0 to 255, and targets, float32, mixed where images are; both on the device.

        Raises:
            Exception: what `batches` raises, after the batches before it.
        """
        source = _Source(batches)
        tf = self._tf
        options = tf.data.Options()
        options.deterministic = True
        dataset = tf.data.Dataset.from_generator(source, output_signature=self._signature)
        dataset = dataset.map(self._changed, num_parallel_calls=_THREADS, deterministic=True)
        dataset = dataset.prefetch(_AHEAD).with_options(options)
        try:
            for images, targets in dataset:
                yield self._own(images), self._own(targets)
        finally:
            source.close()
        if source.error is not None:
            raise source.error

    def _own(self, tensor: Any) -> Tensor:
        return torch.from_numpy(tensor.numpy()).to(self._device)


class _Source:
    """An iterator that tensorflow pulls from a thread of its own, and that its owner can stop.

    Attributes:
        error: what the iterator raised; tensorflow would wrap it in one of its own.
    """

    def __init__(self, batches: Iterator[Plain]) -> None:
        self._batches = batches
        self._lock = threading.Lock()
        self._closed = False
        self.error: BaseException | None = None

    def __call__(self) -> Iterator[Any]:
        while True:
            with self._lock:
                if self._closed:
                    return
                try:
                    key, images, targets = next(self._batches)
                except StopIteration:
                    return
                except BaseException as error:
                    self.error = error
                    return
            yield np.array(key, np.int64), images.cpu().numpy(), targets.cpu().numpy()

    def close(self) -> None:
        """Stops it, after the batch that is being pulled, if any."""
        with self._lock:
            self._closed = True


class _Draws:
    """Random numbers of one traced graph: each call site has a stream of its own, keyed by the batch or the picture.

    It stands in for `tf.random.Generator` in layers, and for the functions of `tf.random` that keep a hidden state.
    """

    def __init__(self, tf: Any) -> None:
        self._tf = tf
        self._keys: list[Any] = []
        self._sites = 0

    @contextmanager
    def keyed(self, key: Any) -> Iterator[None]:
        """Draws from a key, an int64 tensor [2], within the block."""
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
        """As `tf.random.gamma`: a number for each of `shape` and each element of `alpha`."""
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
        """Makes the functions of `tf.random` that keep a state draw from here within the block."""
        names = ("uniform", "normal", "gamma", "shuffle")
        before = {name: getattr(self._tf.random, name) for name in names}
        try:
            for name in names:
                setattr(self._tf.random, name, getattr(self, name))
            yield
        finally:
            for name, function in before.items():
                setattr(self._tf.random, name, function)


def _trace(library: KerasCv, entries: Sequence[Mapping[str, Any]], signature: tuple[Any, ...]) -> Callable[..., Any]:
    """Returns the graph of all layers: key, images, targets in, images and targets out."""
    tf = library.tf
    layers = build_layers(library, entries)
    draws = _Draws(tf)
    for layer in layers:
        _take_over(layer, draws, tf)

    def change(key: Any, images: Any, targets: Any) -> Any:
        first = tf.random.stateless_uniform([2], seed=key, minval=None, maxval=None, dtype=tf.int64)
        pictures = {"images": tf.cast(images, tf.float32), "labels": targets}
        with draws.keyed(first), draws.in_place_of_hidden_state():
            for place, (layer, entry) in enumerate(zip(layers, entries, strict=True)):
                pictures = _applied(tf, layer, pictures, f"augment.layers[{place}]: {entry['name']}")
        return tf.clip_by_value(pictures["images"], *map(float, RANGE)), pictures["labels"]

    graph = tf.function(change, input_signature=signature, autograph=False).get_concrete_function()
    operations = _operations(graph)
    if "CropAndResize" in operations:
        # tensorflow's optimizer of graphs writes a warning about it to stderr, from C++, past all levels.
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    hidden = [kind for kind in operations if kind in _STATEFUL or kind.startswith(("Random", "Rng", "Stateful"))]
    if hidden:
        raise ConfigError(
            [f"augment.layers: draw numbers that no seed repeats ({', '.join(hidden)}); use other layers"]
        )
    return graph  # type: ignore[no-any-return]


def _applied(tf: Any, layer: Any, pictures: Mapping[str, Any], where: str) -> dict[str, Any]:
    def call(inputs: Any) -> Any:
        return layer(inputs)

    try:
        # Some layers have Python's `if` on tensors, which only AutoGraph understands.
        changed = tf.autograph.to_graph(call)(dict(pictures))
    except Exception as error:  # whatever a layer of a foreign library raises while it is traced
        raise ConfigError([f"{where} cannot run here: {_reason(error)}"]) from error
    for key, tensor in pictures.items():
        got, wanted = changed[key].shape[1:], tensor.shape[1:]
        if not got.is_compatible_with(wanted):
            sizes = [" x ".join(map(str, shape)) for shape in (got, wanted)]
            raise ConfigError([f"{where} gives {key} of {sizes[0]} instead of {sizes[1]}; change its arguments"])
    return {key: tf.ensure_shape(changed[key], tensor.shape) for key, tensor in pictures.items()}


def _reason(error: Exception) -> str:
    """Returns why a layer failed, from between the lines that Keras and AutoGraph put around it."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [
        line for line in lines if not line.startswith(("Exception encountered", "in user code", "File ", "Arguments"))
    ]
    return told[0][:200] if told else type(error).__name__


def _take_over(layer: Any, draws: _Draws, tf: Any) -> None:
    """Makes a layer, and the layers within it, draw from `draws`, and for each picture apart."""
    for inner in layer._flatten_layers():
        if hasattr(inner, "_random_generator"):
            inner._random_generator = draws
        if hasattr(inner, "_map_fn"):
            inner._map_fn = _for_each_picture(inner, draws, tf)


def _for_each_picture(layer: Any, draws: _Draws, tf: Any) -> Callable[..., Any]:
    """Returns the layer's way to change pictures one by one, with a key for each of them.

    One graph is traced for all pictures of a batch: with the batch's key all would be changed alike.
    """

    def map_fn(function: Callable[[Any], Any], inputs: Mapping[str, Any]) -> Any:
        def one(both: Any) -> Any:
            picture, key = both
            with draws.keyed(key):
                return function(picture), key

        way = tf.vectorized_map if layer.auto_vectorize else tf.map_fn
        changed, _ = way(one, (inputs, draws.keys(tf.shape(inputs["images"])[0])))
        return changed

    return map_fn


def _operations(graph: Any) -> list[str]:
    """Returns the kinds of operations of a graph, those in its functions included."""
    definition = graph.graph.as_graph_def()
    nodes = [*definition.node, *(node for function in definition.library.function for node in function.node_def)]
    return sorted({node.op for node in nodes})
