"""`kcv benchmark data`: reading and augmenting images, compared with other libraries."""

from __future__ import annotations

import io
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import transforms

from kcv import images
from kcv.benchmark import augmenting, policies
from kcv.common.progress import Progress
from kcv.common.timing import interleave
from kcv.native.device import describe_device, resolve_device, synchronize

_SMALL, _PHOTO = (256, 256), (1280, 960)  # px, of the decoded JPEG files


def benchmark_data(
    *, image_size: int = 32, batch_size: int = 256, device: str = "auto", repeats: int = 20
) -> list[dict[str, Any]]:
    """Measures the two halves of a data pipeline, in this process only.

    `decode` reads JPEG files of 256 px from memory and resizes them to `image_size`, `decode photos` files of
    1280 x 960 px; `augment` shifts by up to an eighth of the image, flips and erases a square of a quarter of its side.
    Candidates are kcv, torchvision on one PIL image at a time (`torchvision`) and on whole batches (`torchvision_v2`,
    which draws once per batch), Keras' layers, and, if its extra is installed, keras-cv in tf.data. `policy NAME` is
    each policy of `augment.policy` and the same in torchvision's v2, applied to one uint8 tensor at a time.

    Args:
        image_size: in pixels.
        batch_size: images augmented at once.
        device: the device that kcv, torchvision_v2 and Keras use; PIL images and keras-cv support only the CPU.
        repeats: timed batches per candidate.

    Returns:
        One row per half and policy: medians of images/s, and the ratio of kcv's to torchvision's.

    Raises:
        DeviceError: the device is not available.
    """
    where = resolve_device(device)
    files, photos = _files(min(batch_size, 64), _SMALL), _files(min(batch_size, 16), _PHOTO)
    pixels = np.random.default_rng(0).integers(0, 256, (batch_size, image_size, image_size, 3), dtype=np.uint8)
    halves = {
        "decode": (len(files), _decoding(files, image_size)),
        "decode photos": (len(photos), _decoding(photos, image_size)),
        "augment": (batch_size, augmenting.candidates(pixels, where)),
    }
    smooth = np.stack([images.load(file, image_size, "squash") for file in files])
    smooth = smooth[np.arange(batch_size) % len(smooth)]
    halves |= {f"policy {name}": (batch_size, policies.candidates(name, smooth, where)) for name in policies.NAMES}
    rows = []
    for name, (count, candidates) in halves.items():
        rates = _take_turns(name, candidates, repeats, where)
        device_used = "cpu" if name.startswith("decode") else where
        rows.append(
            {
                "step": name,
                "image_size": image_size,
                "batch_size": count,
                "device": device_used,
                "hardware": describe_device(device_used),
                "threads": torch.get_num_threads(),
                "repeats": repeats,
                "images_per_second": rates,
                "kcv_over_torchvision": rates["kcv"] / rates["torchvision"],
            }
        )
    return rows


def _take_turns(
    label: str, candidates: dict[str, tuple[Callable[[], Any], int]], repeats: int, device: str
) -> dict[str, float]:
    """Returns each candidate's median images/s; each is given with its number of images per call."""
    works = {name: work for name, (work, _) in candidates.items()}
    with Progress(repeats, f"{label} {' / '.join(works)}", unit="turns") as progress:
        seconds = interleave(works, repeats, synchronize=partial(synchronize, device), advance=progress.advance)
    return {name: candidates[name][1] / statistics.median(times) for name, times in seconds.items()}


def _files(count: int, size: tuple[int, int]) -> list[bytes]:
    """Returns JPEG files of `size` px, of smooth random images, because noise decodes more slowly than photographs."""
    rng = np.random.default_rng(0)
    files = []
    for _ in range(count):
        rough = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        stream = io.BytesIO()
        rough.resize(size, Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
        files.append(stream.getvalue())
    return files


def _decoding(files: list[bytes], size: int) -> dict[str, tuple[Callable[[], Any], int]]:
    """Returns the candidates that decode files and resize them to `size` px, each with the number of files."""
    works = {
        "kcv": lambda: np.stack([images.load(file, size, "squash") for file in files]),
        "torchvision": _decode_as_torchvision(files, size),
    }
    return {name: (work, len(files)) for name, work in works.items()}


def _decode_as_torchvision(files: list[bytes], size: int) -> Callable[[], Any]:
    resize = transforms.Compose([transforms.Resize((size, size)), transforms.PILToTensor()])
    return lambda: torch.stack([resize(Image.open(io.BytesIO(file)).convert("RGB")) for file in files])
