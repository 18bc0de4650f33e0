"""The model file: a standard `.keras` archive with one member more, `kcv.json`, that says what the model is.

Plain `keras.saving.load_model` opens it without kcv; kcv asks for nothing that the file already says.
"""

from kcv.artifact.file import describe_again, is_described, read_info, save
from kcv.artifact.info import ArtifactInfo

__all__ = ["ArtifactInfo", "describe_again", "is_described", "read_info", "save"]
