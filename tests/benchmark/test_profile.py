"""Where a training step spends its time."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from kcv.benchmark.profile import _ROUNDS, STEPS, by_kind, kind_of, profiled
from kcv.cli.render.benchmark import training_benchmark
from kcv.native.layers import depthwise, few_pixels, fused_normalization, windows

KINDS = {
    "convolutions": ("aten::mkldnn_convolution", [[2, 8, 6, 6], [16, 8, 3, 3], [16]]),
    "depthwise convolutions": ("aten::mkldnn_convolution", [[2, 8, 6, 6], [8, 1, 3, 3]]),
    "convolutions, backward": ("aten::convolution_backward", [[2, 16, 4, 4], [2, 8, 6, 6], [16, 8, 3, 3]]),
    "depthwise convolutions, backward": ("aten::convolution_backward", [[2, 8, 4, 4], [2, 8, 6, 6], [8, 1, 3, 3]]),
    "normalisation": ("aten::native_batch_norm_backward", []),
    "activations": ("aten::silu_backward", []),
    "pooling": ("aten::max_pool2d_with_indices", []),
    "optimizer": ("aten::_fused_adamw_", []),
    "copies": ("aten::copy_", []),
    "matrix products": ("aten::addmm", []),
    "arithmetic": ("aten::mul_", []),
    "other operations": ("aten::view", []),
    "Python and autograd": ("autograd::engine::evaluate_function: MulBackward0", []),
}


@pytest.mark.parametrize(("kind", "given"), KINDS.items(), ids=KINDS.keys())
def test_operations_are_known_by_their_names(kind: str, given: tuple[str, list[list[int]]]) -> None:
    assert kind_of(*given) == kind


def event(key: str, on_cpu: float, on_gpu: float = 0.0) -> SimpleNamespace:
    return SimpleNamespace(key=key, input_shapes=[], self_cpu_time_total=on_cpu, self_device_time_total=on_gpu)


def test_time_is_added_up_by_kind() -> None:
    events = [
        event("aten::relu", 3000.0 * STEPS),
        event("aten::gelu", 1000.0 * STEPS),
        event("aten::mm", 4000.0 * STEPS),
    ]
    assert by_kind(events, "cpu") == [
        {"kind": "activations", "milliseconds": 4.0, "fraction": 0.5},
        {"kind": "matrix products", "milliseconds": 4.0, "fraction": 0.5},
    ]


def test_kernels_are_counted_once_on_a_gpu() -> None:
    events = [event("aten::relu", 9.0, 2.0), event("void at::native::relu_kernel", 0.0, 2.0)]
    assert [row["kind"] for row in by_kind(events, "cuda")] == ["activations"]


def test_a_real_step_has_what_it_does() -> None:
    x, kernel = torch.randn(2, 8, 16, 16), torch.randn(8, 1, 3, 3, requires_grad=True)
    rows = profiled(lambda: F.silu(F.conv2d(x, kernel, groups=8)).sum().backward(), "cpu")
    kinds = {row["kind"] for row in rows}
    assert kinds >= {"depthwise convolutions", "depthwise convolutions, backward", "activations"}
    assert sum(row["fraction"] for row in rows) == pytest.approx(1)


def test_operations_of_kcv_have_their_kind() -> None:
    for function, kind in {fused_normalization._Normalize: "normalisation", windows._Average: "pooling"}.items():
        assert kind_of(function.__name__, []) == kind_of(f"{function.__name__}Backward", []) == kind
    for function in (depthwise._DepthwiseInC, depthwise._DepthwiseSwapped):
        assert kind_of(function.__name__, []) == "depthwise convolutions"
        assert kind_of(f"{function.__name__}Backward", []) == "depthwise convolutions, backward"
    assert kind_of(few_pixels._Windows.__name__, []) == "convolutions"


def test_on_a_cpu_the_shortest_round_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = [[{"kind": "a", "milliseconds": time, "fraction": 1.0}] for time in (5.0, 2.0, *[3.0] * _ROUNDS)]
    monkeypatch.setattr("kcv.benchmark.profile._round", lambda step, device: rounds.pop(0))
    assert profiled(lambda: None, "cpu")[0]["milliseconds"] == 2.0


def test_the_table_shows_both_and_says_where_it_is_too_noisy() -> None:
    row = {
        "model": "custom_cnn", "image_size": 32, "batch_size": 8, "precision": "float32", "device": "cpu",
        "hardware": "a CPU", "threads": 1, "repeats": 20, "peak_fraction": 0.5, "matrix_gflop_per_second": 100.0,
        "images_per_second": {"torch": 10.0, "keras": 5.0, "kcv": 10.0},
        "kcv_over_torch": None, "kcv_over_torch_quartiles": [0.6, 1.4],
        "kcv_over_keras": 2.0, "kcv_over_keras_quartiles": [1.9, 2.1],
        "profile": {
            "kcv": [{"kind": "convolutions", "milliseconds": 3.0, "fraction": 0.75}],
            "torch": [{"kind": "copies", "milliseconds": 1.0, "fraction": 0.25}],
        },
    }  # fmt: skip
    shown = training_benchmark([row])
    assert "unclear" in shown
    assert "2.00x" in shown
    assert "custom_cnn: too noisy to compare with PyTorch (quartiles 0.60x to 1.40x)" in shown
    *_, first, second = [line.split() for line in shown.splitlines()]
    assert first == ["convolutions", "3.00", "75%", "0.00", "0%"]
    assert second == ["copies", "0.00", "0%", "1.00", "25%"]
