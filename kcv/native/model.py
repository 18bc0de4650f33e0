"""A Keras model whose steps run natively: `fit` works as in Keras, and torch does the computation."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import keras
import torch
from torch import Tensor

from kcv.errors import DeviceError, KcvError
from kcv.native import kernels
from kcv.native.check import check
from kcv.native.compiled import Compiled
from kcv.native.cuda_graph import Replayed
from kcv.native.device_step import DeviceStep, Loss, plain_accuracy, plain_cross_entropy
from kcv.native.footprint import bytes_of_model, bytes_of_program, images_at_once, in_parts
from kcv.native.layers.lowered import Target, Unsupported
from kcv.native.logs import StepLogs
from kcv.native.lowering import lower
from kcv.native.program import Program, StepError

_log = logging.getLogger(__name__)


class NativeModel(keras.Model):
    """Wraps a functional model so that `fit`, `evaluate` and `predict` run it as a native torch program.

    Layers, variables and their names are those of the functional model. If it cannot be lowered, or if the program
    does not compute the same as Keras, the steps run through Keras, and one warning names the layer responsible.

    Args:
        core: a built functional model; the memory layout of its kernels changes.
        target: what to lower for.
        compile_on_gpu: whether training on CUDA also tries the torch-compiled program, and keeps the faster one.
        split: whether a batch that does not fit into device memory is computed in parts. The gradients are those of the
            whole batch, but BatchNormalization uses the statistics of each part.
        cuda_graph: whether training on CUDA records its steps and replays them; only where the compiled loss and
            optimizer allow it.

    Attributes:
        core: the functional model.
        program: the native program, or None if Keras runs the steps.
        lazy_logs: whether step logs are computed only on access.
        parts: the number of parts a batch is computed in.
        training_loss: what training minimises in place of the compiled loss, from targets and outputs; None: the
            compiled loss, which validation always measures.
        image_loss: the same from inputs, targets and outputs; it takes the place of `training_loss`.
        on_device: whether training steps are torch operations alone, which ask nothing of the host, where the compiled
            loss and optimizer allow it.
    """

    training_loss: Callable[[Tensor, Tensor], Tensor] | None = None
    image_loss: Callable[[Any, Tensor, Tensor], Tensor] | None = None

    def __init__(
        self,
        core: keras.Model,
        *,
        target: Target | None = None,
        compile_on_gpu: bool = False,
        split: bool = False,
        cuda_graph: bool = True,
    ) -> None:
        super().__init__(name=core.name, dtype=core.dtype_policy)
        self.core = core
        self.program: Program | None = None
        self.lazy_logs = False
        self.parts = 1
        self._split = split
        self._metric_names: tuple[str, ...] | None = None
        self._compiled: Compiled | None = None
        try:
            program = lower(core, target)
            check(program, core)
            self.program = program
            if program.fallback_layers:
                names = ", ".join(program.fallback_layers)
                _log.warning("model %s: no native form of %s; called through Keras, which is slower", core.name, names)
        except Unsupported as reason:
            _log.warning("model %s runs through Keras, which is slower: %s", core.name, reason)
        needed = bytes_of_program(self.program) if self.program is not None else bytes_of_model(core)
        self._at_once = images_at_once(needed)
        self._device = core.variables[0].value.device if core.variables else torch.device("cpu")
        if self.program is not None and compile_on_gpu and self._device.type == "cuda":
            self._compiled = Compiled(self.program)
        self.on_device = self._device.type in ("cpu", "cuda")
        self._cuda_graph = cuda_graph and self._device.type == "cuda"
        self._device_step: DeviceStep | None = None
        self._replayed: Replayed | None = None
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Runs the functional model through Keras, layer by layer."""
        return self.core(inputs, training=training)

    def forward_pass(self, inputs: Any, *, training: bool) -> Any:
        """Computes the outputs, natively if possible; without gradients, in parts that limit the memory use."""
        if isinstance(inputs, dict):
            return self.core(inputs, training=training)
        given = inputs if isinstance(inputs, list | tuple) else (inputs,)
        tensors = [torch.as_tensor(x).to(self._device) for x in given]
        if training:
            return self._pass(*tensors, training=True)
        return in_parts(partial(self._pass, training=False), tensors, self._at_once)

    def _pass(self, *tensors: torch.Tensor, training: bool) -> Any:
        if self.program is not None:
            try:
                return (self._compiled or self.program)(*tensors, training=training)
            except StepError as error:
                if isinstance(error.__cause__, torch.OutOfMemoryError | KcvError):
                    raise error.__cause__ from None  # Keras needs even more memory and cannot restore a lost process
                _log.warning("model %s runs through Keras from here on, which is slower: %s", self.name, error)
                self.program = self._compiled = None
        return self.core(tensors if len(tensors) > 1 else tensors[0], training=training)

    def train_step(self, data: Any) -> Any:
        """Performs one optimizer step on one batch; None stands for a step completed before an interruption."""
        if data is None:
            return self._logs()
        batch = keras.utils.unpack_x_y_sample_weight(data)
        if not self.trainable_variables:
            warnings.warn("The model does not have any trainable weights.", stacklevel=2)
        logs = self._step_on_device(batch)
        return self._step_in_parts(batch) if logs is None else logs

    def _step_in_parts(self, batch: Any) -> Any:
        """Performs a step with Keras' loss, optimizer and metrics, in as many parts as fit into memory."""
        variables = self.trainable_variables
        count = len(_first(batch[0]))
        while True:
            try:
                done = [self._backward(part, count) for part in parts_of(batch, count, self.parts)]
                break
            except torch.OutOfMemoryError:
                pass  # after the except block, as its traceback would keep the tensors alive
            self._make_room(batch, count)
        if variables:
            parameters = [variable.value for variable in variables]
            gradients = [parameter.grad for parameter in parameters]
            # Torch accumulates into existing gradients, so they are cleared before the next step.
            self._forget_gradients()
            with torch.no_grad():
                self.optimizer.apply(gradients, variables)
            if self._compiled is not None:
                self._compiled.step_done()
        logs = None
        for (x, y, weights), outputs, loss in done:
            self._loss_tracker.update_state(loss, sample_weight=len(_first(x)))
            logs = self.compute_metrics(x, y, outputs, sample_weight=weights)
        return logs

    def _step_on_device(self, batch: Any) -> Any:
        """Performs a step that asks nothing of the host; returns None if that is not possible, and tries it no more."""
        images, targets, weights = batch
        if not self.on_device or weights is not None or not isinstance(images, Tensor) or self.parts > 1:
            return None
        if self._device_step is None:
            self._device_step = self._make_device_step()
        if self._device_step is not None:
            try:
                return self._perform(self._device_step, images.to(self._device), targets.to(self._device))
            except torch.OutOfMemoryError:
                pass  # after the except block, as its traceback would keep the tensors alive
            except StepError as error:
                if self._device.type != "cpu":  # there the same program runs once more, and says what has failed
                    _log.warning("model %s: a training step failed on the device: %s", self.name, error)
        self.on_device = False
        self._drop_device_step()
        return None

    def _perform(self, step: DeviceStep, images: Tensor, targets: Tensor) -> Any:
        self.optimizer.begin_update()
        # A program that is still being compared with its compiled form is not recorded.
        settled = self._compiled is None or self._compiled.settled
        try:
            logits = (self._replayed if self._replayed is not None and settled else step)(images, targets)
        except StepError as error:
            if isinstance(error.__cause__, torch.OutOfMemoryError):
                raise error.__cause__ from None
            raise
        self.optimizer.end_update()
        if self._compiled is not None:
            self._compiled.step_done()
        return self.compute_metrics(images, targets, logits) if step.accuracy is None else self._logs()

    def _make_device_step(self) -> DeviceStep | None:
        """Returns the step for what the model is compiled with; None if Keras must perform it."""
        program, optimizer, variables = self._compiled or self.program, self.optimizer, self.trainable_variables
        loss = self._torch_loss()
        if loss is None or program is None or not variables or not getattr(optimizer, "updates_on_device", False):
            return None
        if any(variable.constraint is not None for variable in variables):
            return None
        if not optimizer.built:
            optimizer.build(variables)
        accuracy = plain_accuracy(self._compile_metrics.metrics) if self._compile_metrics is not None else None
        step = DeviceStep(partial(program, training=True), loss, variables, optimizer, self._loss_tracker, accuracy)
        self._replayed = Replayed(step, step.state) if self._cuda_graph else None
        return step

    def _torch_loss(self) -> Loss | None:
        """Returns the training loss as torch operations; None if only Keras can compute it."""
        if self.losses or self._compile_loss._user_loss_weights is not None:
            return None
        if self.image_loss is not None:
            return self.image_loss
        if (loss := self.training_loss) is not None:
            return lambda images, targets, logits: loss(targets, logits)
        return plain_cross_entropy(self.loss)

    def _drop_device_step(self) -> None:
        """Frees a recorded step with the memory that it holds."""
        self._device_step = self._replayed = None

    def _backward(self, batch: Any, count: int) -> tuple[Any, Any, Any]:
        """Accumulates the gradients of one part of a batch of `count` images; returns part, outputs and loss."""
        x, y, weights = batch
        outputs = self._training_pass(x)
        loss: Tensor = self._compute_loss(x=x, y=y, y_pred=outputs, sample_weight=weights, training=True)
        if self.trainable_variables:
            share = len(_first(x)) / count
            self._differentiate(loss if share == 1 else loss * share)
        return batch, _detached(outputs), loss.detach()

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """Computes the loss of training or of validation; penalties on weights are part of both, as in Keras."""
        if training and self.image_loss is not None:
            loss = self.image_loss(x, y, y_pred)
        elif training and self.training_loss is not None:
            loss = self.training_loss(y, y_pred)
        else:
            return super().compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training)
        return sum((self._aggregate_additional_loss(penalty) for penalty in self.losses), start=loss)

    def _training_pass(self, x: Any) -> Any:
        return self.forward_pass(x, training=True)

    def _differentiate(self, loss: Tensor) -> None:
        """Accumulates the gradients of a loss in the parameters."""
        torch.autograd.backward(self.optimizer.scale_loss(loss))

    def _make_room(self, batch: Any, count: int) -> None:
        """Halves the size of a batch's parts; if it must not be split, reports the batch size that would fit.

        Raises:
            DeviceError: the batch must not be split, or a single image is too large.
        """
        while True:
            self._forget_gradients()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self.parts *= 2
            size = -(-count // self.parts)
            if self.parts >= 2 * count:
                raise DeviceError("a single image does not fit into the device's memory; use a smaller image_size")
            if self._split:
                _log.warning("out of memory: from here on a batch of %d is computed in parts of %d", count, size)
                return
            try:
                self._backward(next(parts_of(batch, count, self.parts)), count)
            except torch.OutOfMemoryError:
                continue
            self._forget_gradients()
            raise DeviceError(
                f"batch_size={count} does not fit into the device's memory, {size} does: use --batch_size={size}, or "
                "--train.on_out_of_memory=split"
            )

    def _forget_gradients(self) -> None:
        for variable in self.trainable_variables:
            variable.value.grad = None

    def test_step(self, data: Any) -> Any:
        """Evaluates one batch."""
        x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
        outputs = self.forward_pass(x, training=False)
        loss = self._compute_loss(x=x, y=y, y_pred=outputs, sample_weight=weights, training=False)
        self._loss_tracker.update_state(loss, sample_weight=len(_first(x)))
        return self.compute_metrics(x, y, outputs, sample_weight=weights)

    def predict_step(self, data: Any) -> Any:
        """Predicts the outputs of one batch."""
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        return self.forward_pass(x, training=False)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Updates the metrics on the device; their values are computed on access."""
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
        """Trains like `keras.Model.fit`. Step logs are lazy only with a `LazyCallbackList`."""
        self.lazy_logs = False
        self._drop_device_step()
        try:
            return super().fit(*args, **kwargs)
        finally:
            self.lazy_logs = False
            self._drop_device_step()

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Configures training like `keras.Model.compile`."""
        super().compile(*args, **kwargs)
        self._metric_names = None


def _first(x: Any) -> Any:
    return x[0] if isinstance(x, list | tuple) else x


def parts_of(batch: Any, count: int, parts: int) -> Iterator[Any]:
    """Yields nearly equal parts of a batch, each as (x, y, weights)."""
    if parts == 1:
        yield batch
        return
    size = -(-count // parts)
    for begin in range(0, count, size):
        yield keras.tree.map_structure(
            lambda tensor, begin=begin: None if tensor is None else tensor[begin : begin + size], batch
        )


def _detached(outputs: Any) -> Any:
    return keras.tree.map_structure(lambda tensor: tensor.detach(), outputs)


def native_target(device: str, model: keras.Model | None = None, *, cpu_kernels: bool = False) -> Target:
    """Returns the lowering target for a device type (`cpu`, `cuda`, `mps`).

    Args:
        device: the device type.
        model: the model to lower, nested models included; None for one without depthwise convolutions.
        cpu_kernels: whether the kernels of `kcv.native.kernels` are compiled for training on a CPU, if the model has a
            use for them.
    """
    # Channels last is the faster layout on CPUs (custom CNN, bfloat16: 1.4 times) and for the tensor cores of GPUs. Not
    # so for depthwise convolutions on CUDA (H100, EfficientNet-B0 at 160 px, batch 128, bfloat16: 54 ms a step, and
    # 17.5 s for the first; contiguous: 50 ms and 0.4 s).
    depthwise = model is not None and any(type(x) is keras.layers.DepthwiseConv2D for x in model._flatten_layers())
    contiguous = device == "mps" or (device == "cuda" and depthwise)
    return Target(
        memory_format=torch.contiguous_format if contiguous else torch.channels_last,
        kernels=kernels.load() if cpu_kernels and device == "cpu" and _has_use_for_kernels(model) else None,
    )


def _has_use_for_kernels(model: keras.Model | None) -> bool:
    """Whether a model trains what there are kernels for: batch normalisation or depthwise convolutions in float32."""
    kinds = (keras.layers.BatchNormalization, keras.layers.DepthwiseConv2D)
    return model is not None and any(
        type(layer) in kinds and layer.trainable and layer.compute_dtype == "float32"
        for layer in model._flatten_layers()
    )


def compile_classifier(
    model: keras.Model, optimizer: keras.optimizers.Optimizer, metrics: Sequence[keras.metrics.Metric] = ()
) -> None:
    """Compiles a model from images to logits for one-hot targets: cross-entropy, and accuracy before other metrics."""
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy"), *metrics],
        jit_compile=False,
    )
