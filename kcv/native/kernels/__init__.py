"""Kernels in C for what torch computes slowly on CPUs, compiled by the machine's own compiler when training begins."""

from kcv.native.kernels.library import ACTIVATIONS, SIZES, Kernels, Normalized, Sides, Window, compiler, load

__all__ = ["ACTIVATIONS", "SIZES", "Kernels", "Normalized", "Sides", "Window", "compiler", "load"]
