"""What several processes need of the native model, as far as one process can tell."""

import keras
import numpy as np
import pytest
import torch

from kcv.distributed.group import SINGLE_PROCESS, Group
from kcv.errors import DeviceError
from kcv.native.layers.normalization import SyncedBatchNorm
from kcv.native.model import native_target
from kcv.native.parallel import ParallelModel, moving_statistics, parallel_target


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(8, 5, 4, 4), (16, 5)])
def test_synced_batch_norm_is_that_of_the_whole_batch(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Two halves, whose sums are exchanged by hand, against torch's own over the whole."""
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(shape, generator=generator) * 3 + 2).to(dtype).requires_grad_()
    gamma, beta = (torch.rand(5, generator=generator).to(dtype).requires_grad_() for _ in range(2))
    weight = torch.randn(shape, generator=generator).to(dtype)
    whole = torch.batch_norm(x, gamma, beta, None, None, True, 0.0, 1e-3, True)
    wanted = torch.autograd.grad((whole * weight).sum(), (x, gamma, beta))

    half = len(x) // 2
    parts = [x.detach()[:half].clone().requires_grad_(), x.detach()[half:].clone().requires_grad_()]
    others = [axis for axis in range(x.dim()) if axis != 1]

    def sums_of(part: torch.Tensor) -> torch.Tensor:
        count = part.numel() // part.shape[1]
        values = part.detach().double()
        return torch.cat([values.sum(others), values.square().sum(others), torch.tensor([count], dtype=torch.float64)])

    gradients = []
    normalised = (whole.detach() - beta.detach().view(-1, *[1] * (x.dim() - 2))) / gamma.detach().view(
        -1, *[1] * (x.dim() - 2)
    )
    for mine, rows in ((0, slice(None, half)), (1, slice(half, None))):
        other = slice(half, None) if mine == 0 else slice(None, half)
        calls = []

        def all_reduce_sum(
            tensor: torch.Tensor, mine: int = mine, other: slice = other, calls: list = calls
        ) -> torch.Tensor:
            calls.append(1)
            if len(calls) == 1:
                return tensor + sums_of(parts[1 - mine])
            theirs = weight[other].double()
            return tensor + torch.cat([theirs.sum(others), (theirs * normalised[other].double()).sum(others)])

        y, mean, variance = SyncedBatchNorm.apply(parts[mine], gamma, beta, 1e-3, all_reduce_sum)
        torch.testing.assert_close(y, whole[rows].detach(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(mean, x.detach().mean(others))
        torch.testing.assert_close(variance, x.detach().var(others, correction=0))
        gradients.append(torch.autograd.grad((y * weight[rows]).sum(), (parts[mine], gamma, beta)))
    torch.testing.assert_close(torch.cat([gradients[0][0], gradients[1][0]]), wanted[0], rtol=1e-4, atol=1e-5)
    for index in (1, 2):  # each process has its own part of these; their sum is the whole's
        torch.testing.assert_close(gradients[0][index] + gradients[1][index], wanted[index], rtol=1e-4, atol=1e-4)


def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3)(inputs)
    x = keras.layers.BatchNormalization()(x)
    frozen = keras.layers.BatchNormalization(trainable=False)
    return keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(frozen(x))))


def test_only_statistics_that_move_are_averaged() -> None:
    assert len(moving_statistics(network())) == 2


def test_sharded_parameters_are_refused() -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    core = network()
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        kernel = core.layers[1].kernel
        mesh = init_device_mesh("cpu", (1,))
        kernel._value = torch.nn.Parameter(distribute_tensor(kernel.value.data, mesh, [Shard(3)]))
        with pytest.raises(DeviceError, match=r"sharded \(FSDP\), which trains Keras variables wrongly"):
            ParallelModel(core, SINGLE_PROCESS, target=native_target("cpu"))
    finally:
        torch.distributed.destroy_process_group()


def test_many_processes_agree_less_often() -> None:
    assert [sum(Group(0, size).agrees_at(step) for step in range(100)) for size in (1, 63, 64, 256)] == [
        100,
        100,
        50,
        20,
    ]
    assert Group(0, 1024).agrees_at(0)  # at the beginning of each epoch


def test_a_group_of_one_waits_for_nobody() -> None:
    group = Group()
    tensor = torch.ones(3)
    assert group.all_reduce_sum(tensor) is tensor
    assert group.all_reduce_or(5) == 5
    assert group.broadcast("x") == "x"
    assert group.all_gather_object(1) == [1]
    assert group.all_reduce_floats([1.5]) == [1.5]
    assert group.run_on_main_process(lambda: 7) == 7
    np.testing.assert_array_equal(group.all_gather_rows(np.ones((2, 1), np.float32)), np.ones((2, 1), np.float32))
    group.start_all_reduce_mean([tensor])()
    assert tensor.tolist() == [1, 1, 1]
    assert parallel_target(native_target("cpu"), group, sync_batchnorm=False).all_reduce_sum is None
