"""`kcv benchmark data`: reading and augmenting pictures, beside torchvision's pipeline of one PIL picture at a time."""

from __future__ import annotations

import io
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision import transforms

from kcv import images
from kcv.config import AugmentConfig
from kcv.data.augment import Augment
from kcv.data.chance import Chance
from kcv.native.device import describe_device, resolve_device, synchronize
from kcv.progress import Progress
from kcv.turns import take_turns

_FILE_SIZE = 256  # px, of the JPEG files that are decoded


def benchmark_data(
    *, image_size: int = 32, batch_size: int = 256, device: str = "auto", repeats: int = 20
) -> list[dict[str, Any]]:
    """Measures the two halves of a data pipeline, in this process alone.

    `decode` reads JPEG files of 256 px from memory and brings them to `image_size`; `augment` shifts by up to an eighth
    of the picture, flips and blanks a square of a quarter.

    Args:
        image_size: pixels.
        batch_size: pictures that are augmented at once.
        device: where kcv augments; torchvision's pipeline of PIL pictures has only the CPU.
        repeats: batches of each that count.

    Returns:
        A row for each half: medians of pictures/s, and their ratio.

    Raises:
        DeviceError: when the device is not there.
    """
    where = resolve_device(device)
    files = _files(min(batch_size, 64))
    pixels = np.random.default_rng(0).integers(0, 256, (batch_size, image_size, image_size, 3), dtype=np.uint8)
    halves = {
        "decode": (len(files), _decode(files, image_size), _decode_as_torchvision(files, image_size)),
        "augment": (batch_size, _augment(pixels, where), _augment_as_torchvision(pixels)),
    }
    rows = []
    for name, (count, ours, theirs) in halves.items():
        rates = _take_turns(name, {"kcv": ours, "torchvision": theirs}, count, repeats, where)
        rows.append(
            {
                "step": name,
                "image_size": image_size,
                "batch_size": count,
                "device": where if name == "augment" else "cpu",
                "hardware": describe_device(where if name == "augment" else "cpu"),
                "threads": torch.get_num_threads(),
                "repeats": repeats,
                "images_per_second": rates,
                "kcv_over_torchvision": rates["kcv"] / rates["torchvision"],
            }
        )
    return rows


def _take_turns(
    label: str, contestants: dict[str, Callable[[], Any]], count: int, repeats: int, device: str
) -> dict[str, float]:
    """Returns each contestant's median pictures/s."""
    with Progress(repeats, f"{label} {' / '.join(contestants)}", unit="turns") as progress:
        seconds = take_turns(contestants, repeats, settle=partial(synchronize, device), advance=progress.advance)
    return {name: count / statistics.median(times) for name, times in seconds.items()}


def _files(count: int) -> list[bytes]:
    """Returns JPEG files of smooth random pictures: noise would be slower to decode than photographs are."""
    rng = np.random.default_rng(0)
    files = []
    for _ in range(count):
        rough = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        stream = io.BytesIO()
        rough.resize((_FILE_SIZE, _FILE_SIZE), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
        files.append(stream.getvalue())
    return files


def _decode(files: list[bytes], size: int) -> Callable[[], Any]:
    return lambda: np.stack([images.load(file, size, "squash") for file in files])


def _decode_as_torchvision(files: list[bytes], size: int) -> Callable[[], Any]:
    resize = transforms.Compose([transforms.Resize((size, size)), transforms.PILToTensor()])
    return lambda: torch.stack([resize(Image.open(io.BytesIO(file)).convert("RGB")) for file in files])


def _augment(pixels: NDArray[np.uint8], device: str) -> Callable[[], Any]:
    size = pixels.shape[1]
    augment = Augment(AugmentConfig(crop_padding=size // 8, flip="random", cutout=size // 4), image_size=size, seed=0)
    pictures = torch.from_numpy(pixels).to(device)
    targets = torch.zeros(len(pixels), 10, device=device)
    indices = torch.arange(len(pixels), device=device)
    chance = Chance(torch.Generator(device).manual_seed(0), len(pictures))

    def work() -> Tensor:
        changed, _ = augment(pictures, targets, chance=chance, indices=indices, epoch=0)
        return changed

    return work


def _augment_as_torchvision(pixels: NDArray[np.uint8]) -> Callable[[], Any]:
    size = pixels.shape[1]
    square = (size // 4) ** 2 / size**2
    augment = transforms.Compose(
        [
            transforms.RandomCrop(size, padding=size // 8, padding_mode="reflect"),
            transforms.RandomHorizontalFlip(),
            transforms.PILToTensor(),
            transforms.RandomErasing(p=1.0, scale=(square, square), ratio=(1.0, 1.0), value=128),
        ]
    )
    pictures = [Image.fromarray(picture) for picture in pixels]
    return lambda: torch.stack([augment(picture) for picture in pictures])
