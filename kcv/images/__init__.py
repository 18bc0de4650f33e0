"""Finds, decodes and resizes untrusted image files, in the same way for all verbs."""

from kcv.images.decoding import RESIZE_MODES, decode, dimensions, examine, load, resize, stack
from kcv.images.files import EXTENSIONS, SUFFIXES, find, read_list, walk
from kcv.images.opening import FORMATS, MAX_PIXELS

__all__ = [
    "EXTENSIONS", "FORMATS", "MAX_PIXELS", "RESIZE_MODES", "SUFFIXES", "decode", "dimensions", "examine", "find",
    "load", "read_list", "resize", "stack", "walk",
]  # fmt: skip
