"""Compiles `kernels.c` and calls it.

The library is made again in each process that trains, which takes a third of a second: it fits the processor it is made
on, and nothing that another user could have changed is ever loaded. It has no OpenMP of its own but uses the one that
torch has loaded, so both share their threads.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import torch
from torch import Tensor

from kcv.common.files import temporary_folder
from kcv.errors import KcvError

_log = logging.getLogger(__name__)

ACTIVATIONS: Final = {"linear": 0, "relu": 1, "relu6": 2, "silu": 3}
"""The activations that `normalize` computes, and their numbers in C."""

SIZES: Final = (3, 5, 7)
"""Heights and widths of windows, in pixels."""

_SOURCE = Path(__file__).with_name("kernels.c")
# No -ffast-math: NaN must stay NaN, so that a run that diverges is noticed.
_FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC")
_COMPILERS = ("cc", "gcc", "clang")
_TIMEOUT_S = 60
_GRAIN = 32_768  # numbers from which several threads are worth waking, as in torch

_POINTER, _INTEGER, _DOUBLE, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double, ctypes.c_int
_SIGNATURES: Final = {
    "normalise": [*[_POINTER] * 9, *[_INTEGER] * 3, _DOUBLE, _INT, _INT],
    "normalise_gradient": [*[_POINTER] * 10, *[_INTEGER] * 3, _INT, _INT],
    "depthwise": [*[_POINTER] * 4, *[_INTEGER] * 9, _INT, _INT],
    "depthwise_image_gradient": [*[_POINTER] * 3, *[_INTEGER] * 9, _INT, _INT],
    "depthwise_weight_gradient": [*[_POINTER] * 4, *[_INTEGER] * 9, _INT, _INT],
}


@dataclass(frozen=True)
class Normalized:
    """What `Kernels.normalize` computes.

    Attributes:
        y: the output, like the input.
        mean: of the batch, [c].
        variance: of the batch, unbiased, [c].
        inverse: 1 / sqrt(biased variance + epsilon), [c].
        scale: what the distance from the mean was multiplied by, [c].
    """

    y: Tensor
    mean: Tensor
    variance: Tensor
    inverse: Tensor
    scale: Tensor


Sides: TypeAlias = tuple[int, int, int, int]
"""Columns and rows of zeros around images: left, right, top, bottom, as `torch.nn.functional.pad` takes them."""


@dataclass(frozen=True)
class Window:
    """How the square window of a convolution moves over images, with zeros around them.

    Attributes:
        size: height and width, in pixels: one of `SIZES`.
        stride: pixels from one place to the next.
        sides: the zeros.
    """

    size: int
    stride: int
    sides: Sides

    def output_size(self, x: Tensor) -> tuple[int, int]:
        """Returns the number of places below and beside each other in images, [n, c, h, w]."""
        left, right, top, bottom = self.sides
        height, width = x.shape[2] + top + bottom, x.shape[3] + left + right
        return (height - self.size) // self.stride + 1, (width - self.size) // self.stride + 1

    def numbers(self, x: Tensor) -> tuple[int, ...]:
        """Returns what the functions in C need to know of the images, [n, c, h, w], and of the window."""
        left, _, top, _ = self.sides
        return (*x.shape, *self.output_size(x), self.stride, top, left, self.size)


class Kernels:
    """The compiled functions. Images are float32 on the CPU, [n, c, h, w] in channels-last memory.

    Args:
        library: the compiled `kernels.c`.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        for name, types in _SIGNATURES.items():
            function = getattr(library, name)
            function.argtypes, function.restype = types, None
        self._library = library
        self.fewest_channels = int(library.fewest_channels())
        """Fewer channels than this are not for depthwise convolutions."""

    def normalize(self, x: Tensor, gamma: Tensor, beta: Tensor, epsilon: float, activation: str) -> Normalized:
        """Computes activation(gamma * (x - mean) / sqrt(variance + epsilon) + beta), with the batch's statistics.

        Args:
            x: the images.
            gamma: [c], float32.
            beta: [c], float32.
            epsilon: added to the variance.
            activation: one of `ACTIVATIONS`.
        """
        rows, channels, block = _rows(x)
        y, part = torch.empty_like(x), torch.empty(-(-rows // block), 2, channels)
        # Of their own each, as autograd counts changes by tensor.
        mean, variance, inverse, scale = (torch.empty(channels) for _ in range(4))
        given = (x, y, gamma.contiguous(), beta.contiguous(), mean, variance, inverse, scale, part)
        self._library.normalise(
            *(tensor.data_ptr() for tensor in given), rows, channels, block, epsilon, ACTIVATIONS[activation],
            _threads(x),
        )  # fmt: skip
        return Normalized(y, mean, variance, inverse, scale)

    def normalize_gradient(
        self, gradient: Tensor, x: Tensor, mean: Tensor, inverse: Tensor, scale: Tensor, beta: Tensor, activation: str
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the gradients by x, gamma and beta.

        Args:
            gradient: by the output, as `x`.
            x: what was normalised.
            mean: as `normalize` returned it.
            inverse: the same.
            scale: the same.
            beta: as `normalize` was given it.
            activation: the same.
        """
        rows, channels, block = _rows(x)
        of_x, part = torch.empty_like(x), torch.empty(-(-rows // block) + 1, 2, channels)
        of_gamma, of_beta = torch.empty(channels), torch.empty(channels)
        given = (x, gradient, of_x, mean, inverse, scale, beta.contiguous(), of_gamma, of_beta, part)
        self._library.normalise_gradient(
            *(tensor.data_ptr() for tensor in given), rows, channels, block, ACTIVATIONS[activation], _threads(x)
        )
        return of_x, of_gamma, of_beta

    def depthwise(self, x: Tensor, weight: Tensor, bias: Tensor | None, window: Window) -> Tensor:
        """Computes a depthwise convolution.

        Args:
            x: the images; `fewest_channels` or more channels.
            weight: [c, 1, size, size], float32.
            bias: [c], float32, or None.
            window: how the window moves.
        """
        y = torch.empty(len(x), x.shape[1], *window.output_size(x), memory_format=torch.channels_last)
        given = (x, _by_place(weight), None if bias is None else bias.contiguous(), y)
        self._library.depthwise(*map(_address, given), *window.numbers(x), _threads(x))
        return y

    def depthwise_image_gradient(self, gradient: Tensor, x: Tensor, weight: Tensor, window: Window) -> Tensor:
        """Returns the gradient of a depthwise convolution's images.

        Args:
            gradient: by the output, [n, c, output h, output w].
            x: as for `depthwise`; only its shape matters.
            weight: as for `depthwise`.
            window: as for `depthwise`.
        """
        of_x = torch.empty_like(x, memory_format=torch.channels_last)
        given = (gradient, _by_place(weight), of_x)
        self._library.depthwise_image_gradient(*map(_address, given), *window.numbers(x), _threads(x))
        return of_x

    def depthwise_weight_gradient(self, gradient: Tensor, x: Tensor, window: Window) -> Tensor:
        """Returns the gradient of a depthwise convolution's weights, [c, 1, size, size].

        Args:
            gradient: by the output, [n, c, output h, output w].
            x: as for `depthwise`.
            window: as for `depthwise`.
        """
        images, channels, size = len(x), x.shape[1], window.size
        part, result = torch.empty(images, size * size, channels), torch.empty(channels, 1, size, size)
        given = (x, gradient, part, result)
        self._library.depthwise_weight_gradient(*map(_address, given), *window.numbers(x), _threads(x))
        return result


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _by_place(weight: Tensor) -> Tensor:
    """Returns the weights of each place in the window side by side, [size * size, c]."""
    return weight.flatten(1).t().contiguous()


def _rows(x: Tensor) -> tuple[int, int, int]:
    """Returns the pixels of a batch, its channels, and how many pixels are added up at once in float32."""
    channels = x.shape[1]
    return x.numel() // channels, channels, max(8, min(256, 16_384 // channels))


def _threads(x: Tensor) -> int:
    return torch.get_num_threads() if x.numel() > _GRAIN else 1


@functools.cache
def load() -> Kernels | None:
    """Compiles the kernels and loads them; the same ones for the life of a process.

    The compiler is `$CC`, or the first of cc, gcc and clang that is installed.

    Returns:
        None where there is no compiler, or where what it makes cannot be loaded or computes something else than torch:
        other systems than Linux, and compilers that need another OpenMP than torch's.
    """
    try:
        kernels = Kernels(_compiled())
    except (OSError, ValueError, AttributeError, KcvError, subprocess.SubprocessError) as error:
        _log.debug("kernels    not compiled: %s", error)
        return None
    if not _computes_as_torch(kernels):
        _log.warning("the C compiler makes kernels that compute something else than torch; they are not used")
        return None
    return kernels


def _compiled() -> ctypes.CDLL:
    """Raises OSError or SubprocessError if that is not possible."""
    compiler_command = compiler()
    if compiler_command is None:
        raise OSError("no C compiler")
    command = shlex.split(compiler_command)
    with temporary_folder("kcv-kernels-") as folder:
        made, library = folder / "kernels.o", folder / "kernels.so"
        _run([*command, *_FLAGS, "-c", str(_SOURCE), "-o", str(made)])
        # Without -fopenmp, which would bring a second OpenMP with threads of its own beside torch's. Loading fails if
        # torch has none with the functions that are needed.
        _run([*command, "-shared", str(made), "-o", str(library), "-lm"])
        return ctypes.CDLL(str(library))


def compiler() -> str | None:
    """Returns the command of the C compiler; None where there is none, or none is used."""
    if sys.platform != "linux":
        return None
    return os.environ.get("CC") or next((path for name in _COMPILERS if (path := shutil.which(name))), None)


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=_TIMEOUT_S, stdin=subprocess.DEVNULL)


def _computes_as_torch(kernels: Kernels) -> bool:
    """Returns whether some small results are those of torch, whose random numbers stay as they are."""
    channels = kernels.fewest_channels + 3
    generator = torch.Generator().manual_seed(0)
    x, gradient = (
        torch.randn(2, channels, 6, 6, generator=generator).contiguous(memory_format=torch.channels_last)
        for _ in range(2)
    )
    ones, zeros = torch.ones(channels), torch.zeros(channels)
    found = kernels.normalize(x, ones, zeros, 1e-3, "silu")
    before = torch.batch_norm(x, ones, zeros, zeros.clone(), ones.clone(), True, 1.0, 1e-3, False)
    window = Window(3, 2, (0, 1, 0, 1))
    wide, weight = torch.nn.functional.pad(x, window.sides), torch.randn(channels, 1, 3, 3, generator=generator)
    slope = gradient[..., :3, :3].contiguous(memory_format=torch.channels_last)
    of_wide, of_weight, _ = torch.ops.aten.convolution_backward(
        slope, wide, weight, None, (2, 2), (0, 0), (1, 1), False, (0, 0), channels, (True, True, False)
    )
    _, of_large, _ = torch.ops.aten.convolution_backward(
        gradient, x, torch.empty(channels, 1, 5, 5), None, (1, 1), (2, 2), (1, 1), False, (0, 0), channels,
        (False, True, False),
    )  # fmt: skip
    pairs = (
        (found.y, torch.nn.functional.silu(before)),
        (
            kernels.depthwise(x, weight, ones, window),
            torch.nn.functional.conv2d(wide, weight, ones, 2, groups=channels),
        ),
        (kernels.depthwise_image_gradient(slope, x, weight, window), of_wide[..., :6, :6]),
        (kernels.depthwise_weight_gradient(slope, x, window), of_weight),
        (kernels.depthwise_weight_gradient(gradient, x, Window(5, 1, (2, 2, 2, 2))), of_large),
    )
    return all(torch.allclose(ours, expected, rtol=1e-4, atol=1e-5) for ours, expected in pairs)
