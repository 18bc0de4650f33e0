"""Step logs that are computed on access, because reading a loss makes the host wait for the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras


class StepLogs(Mapping[str, Any]):
    """The running metrics of an epoch by name: numbers, or other results of a metric (such as one tensor per class).

    Args:
        names: names of the metrics.
        compute: returns the metrics' values, as numbers or scalar tensors.
    """

    def __init__(self, names: tuple[str, ...], compute: Callable[[], Mapping[str, Any]]) -> None:
        self._names = names
        self._compute = compute
        self._values: dict[str, Any] | None = None

    def _read(self) -> dict[str, Any]:
        if self._values is None:
            self._values = {name: _number(value) for name, value in self._compute().items()}
        return self._values

    def __getitem__(self, name: str) -> Any:
        return self._read()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _number(value: Any) -> Any:
    return float(value) if keras.ops.size(value) == 1 else value


class LazyCallbackList(keras.callbacks.CallbackList):
    """A Keras callback list that passes a step's logs to the callbacks without reading them.

    Keras converts the logs of every step to numbers, whether or not a callback reads them. Pass one of these to `fit`
    as `callbacks`. Epoch logs are still numbers.

    Args:
        callbacks: in call order.
        model: the `NativeModel` being trained.
        epochs: number of epochs of the run.
        steps: number of steps per epoch.
    """

    def __init__(
        self, callbacks: list[keras.callbacks.Callback], *, model: keras.Model, epochs: int, steps: int
    ) -> None:
        self._model = model
        super().__init__(callbacks, add_history=True, add_progbar=False, model=model, epochs=epochs, steps=steps)
        # The hooks run synchronously, not in a thread pool: they no longer wait for anything.
        self._async_train = self._async_test = self._async_predict = False

    def on_train_begin(self, logs: Any = None) -> None:
        """Tells the model that step logs may be computed lazily."""
        self._model.lazy_logs = True
        super().on_train_begin(logs)

    def _on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        for callback in self.callbacks:
            callback.on_train_batch_end(batch, logs=logs)

    def _on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        for callback in self.callbacks:
            callback.on_test_batch_end(batch, logs=logs)
