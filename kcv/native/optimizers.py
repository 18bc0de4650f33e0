"""Keras optimizers that use torch's fused updates: one call for all parameters, on Keras' own slots.

Their state has Keras' names and shapes, so it is saved and loaded like Keras' own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import torch
from torch import Tensor

from kcv.native.storage import FlatViews, flat, like

_LATE = 1e9
"""A step at which AdamW's bias corrections are 1, exactly."""


class Fused:
    """Shared code of the fused optimizers: the moving average in one call, the step count, and updates on the device.

    `apply` updates as in Keras. Where the host must not wait for the device, an update is

        optimizer.begin_update()
        optimizer.update(gradients, variables)  # can be recorded once and replayed
        optimizer.end_update()
    """

    _counted: tuple[int, int] | None = None
    _numbers: dict[str, Tensor] | None = None
    _lr_scale: Callable[[Any], float] = staticmethod(lambda variable: 1.0)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._views = FlatViews()

    def _update_model_variables_moving_average(self: Any, trainable_variables: Sequence[Any]) -> None:
        """Updates the averages of the weights in one call."""
        if self._counted is None:
            super()._update_model_variables_moving_average(trainable_variables)  # type: ignore[misc]
            return
        # Keras copies the weights in the first step, when its averages are still zero.
        weight = 1.0 if self._counted[0] == 1 else 1.0 - self.ema_momentum
        averages = [average.value for average in self._model_variables_moving_average]
        with torch.no_grad():
            torch._foreach_lerp_(averages, [variable.value for variable in trainable_variables], weight)

    def _step(self: Any) -> int:
        """Returns the number of this update, from 1.

        The device counts steps in `iterations`. Reading it would make the host wait, so the host keeps its own count
        and reads the counter only if its version shows that something else has written it.
        """
        if self.gradient_accumulation_steps:
            self._counted = None
            return int(self.iterations) + 1
        counter = self._iterations.value
        known = self._counted
        step = int(counter) + 1 if known is None or known[1] != counter._version else known[0] + 1
        # BaseOptimizer.apply will add 1 to the counter in place.
        self._counted = (step, counter._version + 1)
        return step

    @property
    def updates_on_device(self: Any) -> bool:
        """Whether `update` does what `apply` does: not where gradients are accumulated, clipped or scaled."""
        clips = self.clipnorm or self.global_clipnorm or self.clipvalue
        every = self.gradient_accumulation_steps or (self.use_ema and self.ema_overwrite_frequency)
        return not (clips or every or self.loss_scale_factor)

    def begin_update(self: Any) -> None:
        """Writes the numbers of the next update to the device, without waiting for it."""
        if self._is_the_host():
            return
        step = self._step()
        if self._numbers is None:
            device = self._iterations.value.device
            self._numbers = {name: torch.zeros((), device=device) for name in ("rate", "correction")}
        rate = self._learning_rate
        if isinstance(rate, keras.Variable):
            self._numbers["rate"].copy_(rate.value.detach(), non_blocking=True)
        else:
            if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
                with keras.device("cpu"):
                    rate = rate(torch.tensor(step - 1))
            self._numbers["rate"].fill_(float(rate() if callable(rate) else rate))
        self._numbers["correction"].fill_(self._correction(step))

    @torch.no_grad()
    def update(self: Any, gradients: Sequence[Tensor], variables: Sequence[Any]) -> None:
        """Updates variables, averages of weights and the step count by the numbers that `begin_update` has written.

        Args:
            gradients: one per variable.
            variables: some or all of those that the optimizer was built with.
        """
        if self._is_the_host():
            self._backend_update_step(gradients, variables, self.learning_rate)
        else:
            self._move(gradients, variables, self._numbers["rate"], self._numbers["correction"])
        if self.use_ema:
            self._update_model_variables_moving_average(self._trainable_variables)
        self._iterations.value.add_(1)

    def _is_the_host(self: Any) -> bool:
        """Whether the device is the CPU, which waits for nothing, and takes numbers as they are."""
        return bool(self._iterations.value.device.type == "cpu")

    def end_update(self: Any) -> None:
        """Takes note that the device has counted this update, be it by `update` itself or by a replay of it."""
        self._counted = (self._counted[0], self._iterations.value._version)

    def _correction(self, step: int) -> float:
        """Returns the factor on the learning rate that depends on the number of the update, from 1."""
        return 1.0

    def scale_learning_rate(self, scale_of: Callable[[Any], float]) -> None:
        """Sets a learning-rate factor per variable.

        Like `exclude_from_weight_decay`, it must be called before training, and is not saved with the optimizer.

        Args:
            scale_of: called with a variable; returns the factor on the optimizer's learning rate.
        """
        self._lr_scale = scale_of

    def _slots(self: Any, parameters: Sequence[Tensor], slots: Iterable[Any]) -> list[Tensor]:
        """Returns slots as flat views in their parameters' memory order; changes the layout of those that differ."""
        return [self._views.of(slot.value, parameter) for parameter, slot in zip(parameters, slots, strict=True)]

    def _groups(self: Any, variables: Sequence[Any]) -> Iterable[tuple[float, float, list[int]]]:
        """Yields each pair of weight decay and learning-rate factor, with the indices of its variables."""
        groups: dict[tuple[float, float], list[int]] = {}
        for position, variable in enumerate(variables):
            decay = self.weight_decay if self.weight_decay and self._use_weight_decay(variable) else 0.0
            groups.setdefault((decay, self._lr_scale(variable)), []).append(position)
        return ((decay, lr_scale, positions) for (decay, lr_scale), positions in groups.items())

    def _apply_weight_decay(self, variables: Sequence[Any]) -> None:
        """Does nothing: the fused update applies weight decay."""


def _rows(parameters: Sequence[Tensor], gradients: Iterable[Tensor]) -> list[Tensor]:
    """Returns gradients as flat views in their parameters' memory order, copied if they are laid out differently.

    torch's fused updates need contiguous memory, and copy tensors with another layout, mainly kernels.
    """
    return [flat(like(parameter, gradient)) for parameter, gradient in zip(parameters, gradients, strict=True)]


class FusedAdamW(Fused, keras.optimizers.AdamW):
    """`keras.optimizers.AdamW` as one call of torch's fused AdamW for all parameters.

    Takes the same arguments. Source: Loshchilov and Hutter, arXiv:1711.05101.
    """

    @torch.no_grad()
    def _backend_update_step(
        self, grads: Sequence[Tensor], trainable_variables: Sequence[Any], learning_rate: Any
    ) -> None:
        state = self._flat_state(grads, trainable_variables)
        step = self._step()
        steps = torch.full((), float(step), device=state[0][0].device)
        # Keras adds epsilon before the bias correction of the second moment ("epsilon hat"), torch after it.
        epsilon = self.epsilon / math.sqrt(1.0 - self.beta_2**step)
        learning_rate = _plain(learning_rate)
        for decay, lr_scale, chosen in self._groups(trainable_variables):
            self._fused(state, chosen, steps, learning_rate * lr_scale, decay, epsilon)

    def _fused(
        self,
        state: Sequence[list[Tensor]],
        chosen: Sequence[int],
        steps: Tensor,
        rate: Any,
        decay: float,
        epsilon: float,
    ) -> None:
        """Updates the chosen parameters in one call; `steps` is the number of this update, a float32 scalar."""
        rows, gradients, means, squares, largest = ([part[i] for i in chosen] if part else [] for part in state)
        torch._fused_adamw_(
            rows,
            gradients,
            means,
            squares,
            largest,
            [steps] * len(chosen),
            lr=rate,
            beta1=self.beta_1,
            beta2=self.beta_2,
            weight_decay=decay,
            eps=epsilon,
            amsgrad=self.amsgrad,
            maximize=False,
        )

    def _flat_state(self, gradients: Sequence[Tensor], variables: Sequence[Any]) -> tuple[list[Tensor], ...]:
        """Returns parameters, gradients, both moments, and with amsgrad the largest second ones, as flat views."""
        parameters = [variable.value for variable in variables]
        indices = [self._get_variable_index(variable) for variable in variables]
        kept = [self._momentums, self._velocities, *([self._velocity_hats] if self.amsgrad else [])]
        slots = [self._slots(parameters, [slot[index] for index in indices]) for slot in kept]
        rows = [self._views.of(parameter, parameter) for parameter in parameters]
        return rows, _rows(parameters, gradients), slots[0], slots[1], slots[2] if self.amsgrad else []

    def _correction(self, step: int) -> float:
        return float(math.sqrt(1.0 - self.beta_2**step) / (1.0 - self.beta_1**step))

    def _move(self, gradients: Sequence[Tensor], variables: Sequence[Any], rate: Tensor, correction: Tensor) -> None:
        """Does what `_backend_update_step` does, with numbers that are on the device.

        The corrections of both moments are in the learning rate, as Keras writes them, and torch is told that the
        step is so late that none is left to make: otherwise epsilon would change from step to step.
        """
        state = self._flat_state(gradients, variables)
        late = torch.full((), _LATE, device=rate.device)
        for decay, lr_scale, chosen in self._groups(variables):
            if decay:
                torch._foreach_mul_([state[0][i] for i in chosen], 1.0 - decay * (rate * lr_scale))
            self._fused(state, chosen, late, rate * correction * lr_scale, 0.0, self.epsilon)


class FusedSGD(Fused, keras.optimizers.SGD):
    """`keras.optimizers.SGD` as one call of torch's fused SGD for all parameters. Takes the same arguments."""

    @torch.no_grad()
    def _backend_update_step(
        self, grads: Sequence[Tensor], trainable_variables: Sequence[Any], learning_rate: Any
    ) -> None:
        self._step()
        self._change(grads, trainable_variables, _plain(learning_rate))

    def _move(self, gradients: Sequence[Tensor], variables: Sequence[Any], rate: Tensor, correction: Tensor) -> None:
        self._change(gradients, variables, rate)

    def _change(self, grads: Sequence[Tensor], trainable_variables: Sequence[Any], learning_rate: Any) -> None:
        """Updates weights and velocities; the learning rate is a number, or a scalar on the device."""
        parameters = [variable.value for variable in trainable_variables]
        rows = [self._views.of(parameter, parameter) for parameter in parameters]
        steps = _rows(parameters, grads)
        for decay, lr_scale, chosen in self._groups(trainable_variables):
            for position, step in zip(
                chosen, torch._foreach_mul([steps[i] for i in chosen], learning_rate * lr_scale), strict=True
            ):
                steps[position] = step
            if decay:
                torch._foreach_mul_([rows[i] for i in chosen], 1.0 - decay * (learning_rate * lr_scale))
        if not self.momentum:
            torch._foreach_sub_(rows, steps)
            return
        indices = [self._get_variable_index(variable) for variable in trainable_variables]
        velocities = self._slots(parameters, [self.momentums[index] for index in indices])
        # Keras' velocity contains steps already scaled by their learning rates: v = m v - lr g. For torch this is a
        # gradient of lr g that is maximised at a learning rate of -1.
        torch._fused_sgd_(
            rows,
            steps,
            velocities,
            weight_decay=0.0,
            momentum=self.momentum,
            lr=-1.0,
            dampening=0.0,
            nesterov=self.nesterov,
            maximize=True,
            is_first_step=False,
        )


def _plain(learning_rate: Any) -> Any:
    """Returns a learning rate as a float, or as a scalar tensor to keep it on the device."""
    value = learning_rate.value if hasattr(learning_rate, "value") else learning_rate
    if isinstance(value, Tensor):
        return value.detach() if value.device.type != "cpu" else float(value)
    return float(value)
