"""From untrusted files to pixels: the one decoder and the one resize that every verb uses."""

from kcv.images.batch import stack
from kcv.images.decoding import FORMATS, MAX_PIXELS, RESIZE_MODES, decode, dimensions, load, resize
from kcv.images.files import EXTENSIONS, find, read_list, walk

__all__ = [
    "EXTENSIONS", "FORMATS", "MAX_PIXELS", "RESIZE_MODES", "decode", "dimensions", "find", "load", "read_list",
    "resize", "stack", "walk",
]  # fmt: skip
