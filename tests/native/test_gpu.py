"""What only a GPU can show."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import pytest
import torch

from kcv.config import Config
from kcv.data.batches import TrainingBatches
from kcv.data.dataset import Images
from kcv.native.logs import LazyCallbackList
from kcv.native.model import NativeModel, native_target
from kcv.native.optimizers import FusedAdamW
from kcv.native.precision import precision_scope

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@pytest.fixture
def batches() -> TrainingBatches:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (256, 32, 32, 3), dtype=np.uint8)
    images = Images(rng.integers(0, 10, 256), 32, pixels=pixels)
    augment = Config.load(**{"augment.crop_padding": 4, "augment.flip": "alternating", "augment.cutout": 8}).augment
    return TrainingBatches(images, num_classes=10, batch_size=64, augment=augment, seed=0, device="cuda")


def build(policy: str) -> keras.Model:
    from kcv.models import registry

    keras.utils.set_random_seed(0)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)
    with keras.device("cuda"), precision_scope(policy):
        return registry.build(Config.load(model="custom_cnn").model, 32, 10, pixels)


def fitted(model: keras.Model, batches: TrainingBatches, check: Callable[[], None] = lambda: None) -> NativeModel:
    native = NativeModel(model, target=native_target("cuda"))
    assert native.program is not None
    native.compile(
        optimizer=FusedAdamW(1e-3),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
        jit_compile=False,
    )
    callbacks = LazyCallbackList([], model=native, epochs=3, steps=len(batches))
    native.fit(batches.loader(), epochs=3, callbacks=callbacks, shuffle=False, verbose=0)
    return native


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_it_learns(policy: str, batches: TrainingBatches) -> None:
    history = fitted(build(policy), batches).history.history
    assert history["loss"][-1] < history["loss"][0]


def test_a_step_never_makes_the_host_wait(batches: TrainingBatches) -> None:
    native = fitted(build("mixed_bfloat16"), batches)
    steps = iter(batches)
    next(steps)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in steps:
            native.train_step(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
