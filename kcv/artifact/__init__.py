"""The model file: a standard `.keras` archive with one additional member, `kcv.json`, that describes the model.

`keras.saving.load_model` opens it without kcv. kcv never asks the user for anything that the file contains.
"""

from kcv.artifact.file import describe_again, is_described, read_info, save, weights_digest
from kcv.artifact.info import ArtifactInfo, ModelSource

__all__ = ["ArtifactInfo", "ModelSource", "describe_again", "is_described", "read_info", "save", "weights_digest"]
