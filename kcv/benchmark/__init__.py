"""Benchmarks of kcv against what its users would write or use instead, in one process on one machine."""

from kcv.benchmark.data import benchmark_data
from kcv.benchmark.memory import benchmark_memory
from kcv.benchmark.prediction import benchmark_prediction
from kcv.benchmark.scaling import benchmark_scaling
from kcv.benchmark.serving import benchmark_serving
from kcv.benchmark.training import BENCHMARKED, benchmark_training

__all__ = [
    "BENCHMARKED", "benchmark_data", "benchmark_memory", "benchmark_prediction", "benchmark_scaling",
    "benchmark_serving", "benchmark_training",
]  # fmt: skip
