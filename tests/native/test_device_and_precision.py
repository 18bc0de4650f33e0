"""Where a model runs and in which number format: what is asked for, what is there, what is said."""

import keras
import pytest
import torch
from keras import layers

from kcv.errors import DeviceError
from kcv.native.device import describe_device, resolve_device
from kcv.native.model import native_target
from kcv.native.precision import resolve_precision


def test_auto_takes_what_the_machine_has(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto") == "cpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device("auto") == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == "cuda"
    assert resolve_device("cpu") == "cpu"


def test_a_device_that_is_not_there_is_an_error_that_names_those_that_are(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(DeviceError, match=r"device='cuda' is not available here; available: cpu$"):
        resolve_device("cuda")


def test_a_description_names_hardware():
    assert len(describe_device("cpu")) > 2


@pytest.mark.parametrize(
    ("features", "policy"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, "mixed_bfloat16"),
        ({"amx_bf16": False, "avx512_bf16": True}, "mixed_bfloat16"),
        ({"avx512_bf16": False}, "float32"),
        ({}, "float32"),
    ],
)
def test_auto_precision_on_a_cpu_follows_its_instructions(monkeypatch, features, policy):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    chosen, reason = resolve_precision("auto", "cpu")
    assert chosen == policy
    assert reason


def test_auto_precision_trains_depthwise_convolutions_in_float32_on_a_cpu_only(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    assert resolve_precision("auto", "cpu", trains_depthwise=True)[0] == "float32"
    assert resolve_precision("auto", "cuda", trains_depthwise=True)[0] == "mixed_bfloat16"
    assert resolve_precision("mixed_bfloat16", "cpu", trains_depthwise=True)[0] == "mixed_bfloat16"


@pytest.mark.parametrize(
    ("capability", "policy"), [((9, 0), "mixed_bfloat16"), ((8, 0), "mixed_bfloat16"), ((7, 5), "mixed_float16")]
)
def test_auto_precision_on_a_gpu_follows_its_generation(monkeypatch, capability, policy):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert resolve_precision("auto", "cuda")[0] == policy


def test_what_is_asked_for_is_taken():
    assert resolve_precision("float32", "cuda") == ("float32", "as asked")
    assert resolve_precision("mixed_bfloat16", "cpu")[0] == "mixed_bfloat16"


def test_float16_on_a_cpu_is_refused():
    with pytest.raises(DeviceError, match="needs a GPU"):
        resolve_precision("mixed_float16", "cpu")


def test_the_layout_follows_the_device_and_the_convolutions():
    inputs = layers.Input((8, 8, 3))
    plain = keras.Model(inputs, layers.Conv2D(4, 3)(inputs))
    inner = keras.Model(inputs, layers.DepthwiseConv2D(3)(inputs))
    nested = keras.Model(inputs, inner(inputs))
    formats = {
        (device, model.name if model else None): native_target(device, model).memory_format
        for device in ("cpu", "cuda", "mps")
        for model in (None, plain, nested)
    }
    contiguous = {key for key, memory_format in formats.items() if memory_format is torch.contiguous_format}
    assert contiguous == {("mps", None), ("mps", plain.name), ("mps", nested.name), ("cuda", nested.name)}
