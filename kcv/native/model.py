"""A Keras model whose steps run natively: everything about `fit` stays Keras', only the computation is torch's."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import keras
import torch
from torch import Tensor

from kcv.native.check import check
from kcv.native.compiled import Compiled
from kcv.native.layers.lowered import Target, Unsupported
from kcv.native.logs import StepLogs
from kcv.native.lowering import lower
from kcv.native.program import Program, StepError

_log = logging.getLogger(__name__)


class NativeModel(keras.Model):
    """Wraps a functional model so that `fit`, `evaluate` and `predict` run it as a native torch program.

    Layers, variables and their names stay those of the functional model. Where it cannot be lowered, or where the
    program does not compute what Keras computes, the steps run through Keras, and one warning says which layer is the
    reason.

    Args:
        core: a built functional model; its kernels' storage is laid out anew.
        target: what to lower for.
        compile_on_gpu: whether training on CUDA also tries the program compiled by torch, and stays with the faster.

    Attributes:
        core: the functional model.
        program: the native program, or None where Keras runs.
        lazy_logs: whether a step's logs are computed only when they are read.
    """

    def __init__(self, core: keras.Model, *, target: Target | None = None, compile_on_gpu: bool = False) -> None:
        super().__init__(name=core.name, dtype=core.dtype_policy)
        self.core = core
        self.program: Program | None = None
        self.lazy_logs = False
        self._metric_names: tuple[str, ...] | None = None
        self._compiled: Compiled | None = None
        try:
            program = lower(core, target)
            check(program, core)
            self.program = program
            if program.called_as_they_are:
                names = ", ".join(program.called_as_they_are)
                _log.warning("model %s: no native form of %s; called through Keras, which is slower", core.name, names)
        except Unsupported as reason:
            _log.warning("model %s runs through Keras, which is slower: %s", core.name, reason)
        self._device = core.variables[0].value.device if core.variables else torch.device("cpu")
        if self.program is not None and compile_on_gpu and self._device.type == "cuda":
            self._compiled = Compiled(self.program)
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Runs the functional model through Keras, layer by layer."""
        return self.core(inputs, training=training)

    def forward_pass(self, inputs: Any, *, training: bool) -> Any:
        """Computes the outputs, natively where possible."""
        if self.program is None or isinstance(inputs, dict):
            return self.core(inputs, training=training)
        given = inputs if isinstance(inputs, list | tuple) else (inputs,)
        tensors = [torch.as_tensor(x).to(self._device) for x in given]
        try:
            return (self._compiled or self.program)(*tensors, training=training)
        except StepError as error:
            if isinstance(error.__cause__, torch.OutOfMemoryError):
                raise error.__cause__ from None  # Keras would need more memory, not less
            _log.warning("model %s runs through Keras from here on, which is slower: %s", self.name, error)
            self.program = self._compiled = None
            return self.core(inputs, training=training)

    def train_step(self, data: Any) -> Any:
        """Makes one optimizer step on one batch; None stands for a step that an interrupted epoch has behind it."""
        if data is None:
            return self._logs()
        x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
        outputs = self.forward_pass(x, training=True)
        loss = self._loss_of(x, y, outputs, weights, training=True)
        variables = self.trainable_variables
        if variables:
            parameters = [variable.value for variable in variables]
            torch.autograd.backward(self.optimizer.scale_loss(loss))
            gradients = [parameter.grad for parameter in parameters]
            # Torch adds to gradients that it finds, so that they go before the next step.
            for parameter in parameters:
                parameter.grad = None
            with torch.no_grad():
                self.optimizer.apply(gradients, variables)
            if self._compiled is not None:
                self._compiled.step_done()
        else:
            warnings.warn("The model does not have any trainable weights.", stacklevel=2)
        return self.compute_metrics(x, y, outputs, sample_weight=weights)

    def test_step(self, data: Any) -> Any:
        """Measures one batch."""
        x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
        outputs = self.forward_pass(x, training=False)
        self._loss_of(x, y, outputs, weights, training=False)
        return self.compute_metrics(x, y, outputs, sample_weight=weights)

    def predict_step(self, data: Any) -> Any:
        """Computes the outputs of one batch."""
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        return self.forward_pass(x, training=False)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Updates the metrics on the device; what they have come to is computed when it is read."""
        if self._compile_metrics is not None:
            self._compile_metrics.update_state(y, y_pred, sample_weight)
        return self._logs()

    def _logs(self) -> Any:
        if not self.lazy_logs or self._metric_names is None:
            results = self.get_metrics_result()
            self._metric_names = tuple(results)
            return results
        return StepLogs(self._metric_names, self.get_metrics_result)

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        """Trains, as `keras.Model.fit` does. Only a `LazyCallbackList` leaves the logs of a step to who reads them."""
        self.lazy_logs = False
        try:
            return super().fit(*args, **kwargs)
        finally:
            self.lazy_logs = False

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Configures training, as `keras.Model.compile` does."""
        super().compile(*args, **kwargs)
        self._metric_names = None

    def _loss_of(self, x: Any, y: Any, outputs: Any, weights: Any, *, training: bool) -> Tensor:
        loss: Tensor = self._compute_loss(x=x, y=y, y_pred=outputs, sample_weight=weights, training=training)
        first = x[0] if isinstance(x, list | tuple) else x
        self._loss_tracker.update_state(loss, sample_weight=first.shape[0])
        return loss


def native_target(device: str) -> Target:
    """Returns what to lower for on a kind of device (`cpu`, `cuda`, `mps`)."""
    # Channels last is the faster layout on CPUs (custom CNN, bfloat16: 1.4 times) and for the tensor cores of GPUs.
    return Target(memory_format=torch.contiguous_format if device == "mps" else torch.channels_last)
