"""Training on a GPU. What a CPU can do as well runs there too, so that these tests are never out of date."""

from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest
import torch

from kcv.config import Config
from kcv.data.batches import TrainingBatches
from kcv.data.dataset import Images, Samples
from kcv.native.cuda_graph import WARM_UP
from kcv.native.logs import LazyCallbackList
from kcv.native.model import NativeModel, native_target
from kcv.native.optimizers import FusedAdamW
from kcv.native.precision import precision_scope

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def batches_on(device: str, batch_size: int = 64) -> TrainingBatches:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (256, 32, 32, 3), dtype=np.uint8)
    samples = Samples(list(pixels), rng.integers(0, 10, 256), [str(i) for i in range(256)])  # type: ignore[arg-type]
    augment = Config.load(**{"augment.crop_padding": 4, "augment.flip": "alternating", "augment.cutout": 8}).augment
    images = Images(samples, 32, "squash", pixels)
    return TrainingBatches(images, num_classes=10, batch_size=batch_size, augment=augment, seed=0, device=device)


def build(name: str, policy: str, device: str, dropout: float = 0.0, width: float = 1.0) -> keras.Model:
    from kcv.models import registry

    keras.utils.set_random_seed(0)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)
    with keras.device(device), precision_scope(policy):
        scaled = {"model.width": width} if name == "custom_cnn" else {}
        config = Config.load(**{"model.name": name, "model.weights": "none", "model.dropout": dropout, **scaled})
        return registry.build(config.model, 32, 10, pixels)


def fitted(model: keras.Model, batches: TrainingBatches, device: str, *, cuda_graph: bool = True) -> NativeModel:
    with keras.device(device):
        native = NativeModel(model, target=native_target(device, model), cuda_graph=cuda_graph)
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


@pytest.mark.parametrize(
    ("device", "policy"),
    [
        ("cpu", "float32"),
        pytest.param("cuda", "float32", marks=gpu),
        pytest.param("cuda", "mixed_bfloat16", marks=gpu),
        pytest.param("cuda", "mixed_float16", marks=gpu),
    ],
)
def test_it_learns(device: str, policy: str) -> None:
    # Its BatchNormalization has no scale, which torch's CUDA kernels do not differentiate by themselves.
    width = 0.25 if device == "cpu" else 1.0
    history = fitted(build("custom_cnn", policy, device, width=width), batches_on(device), device).history.history
    assert history["loss"][-1] < history["loss"][0]


@gpu
@pytest.mark.parametrize("name", ["custom_cnn", "resnet50", "efficientnet_b0"])
def test_a_step_never_makes_the_host_wait(name: str) -> None:
    batches = batches_on("cuda")
    native = fitted(build(name, "mixed_bfloat16", "cuda"), batches, "cuda")
    steps = iter(batches)
    next(steps)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the mode is called a prototype
            torch.cuda.set_sync_debug_mode("error")
        for batch in steps:
            native.train_step(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@gpu
@pytest.mark.parametrize("name", ["custom_cnn", "resnet50", "efficientnet_b0"])
def test_a_recorded_step_changes_no_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    replays = []
    replay = torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda graph: (replays.append(1), replay(graph)))
    recorded, plain = (
        fitted(
            build(name, "mixed_bfloat16", "cuda", dropout=0.3), batches_on("cuda", 60), "cuda", cuda_graph=cuda_graph
        )
        for cuda_graph in (True, False)
    )
    # Five batches an epoch, one of 52 images and four of 51.
    assert len(replays) == 3 * 4 - WARM_UP
    assert recorded.history.history == plain.history.history
    for a, b in zip(recorded.variables, plain.variables, strict=True):
        assert torch.equal(a.value, b.value), a.path
    for a, b in zip(recorded.optimizer.variables, plain.optimizer.variables, strict=True):
        assert torch.equal(a.value, b.value), a.path


@gpu
@pytest.mark.parametrize("name", ["custom_cnn", "resnet50", "efficientnet_b0"])
def test_a_gpu_computes_what_a_cpu_computes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8))
    logits, gradients = {}, {}
    weights = build(name, "float32", "cpu", width=0.25).get_weights()  # each device draws other numbers
    for device in ("cpu", "cuda"):
        model = build(name, "float32", device, width=0.25)
        model.set_weights(weights)
        with keras.device(device):
            program = NativeModel(model, target=native_target(device, model)).program
            assert program is not None
            # Not as in training: blocks are left out at random, and statistics of four images enlarge rounding.
            outputs = program(pixels.to(device), training=False)
        outputs.square().sum().backward()
        logits[device] = outputs.detach().cpu()
        gradients[device] = model.trainable_variables[0].value.grad.cpu()
    for on in (logits, gradients):
        torch.testing.assert_close(on["cuda"], on["cpu"], rtol=0, atol=1e-3 * on["cpu"].abs().max().item())
