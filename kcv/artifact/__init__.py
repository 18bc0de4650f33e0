"""The model file: a standard `.keras` archive with one member more, `kcv.json`, that says what the model is.

Plain `keras.saving.load_model` opens it without kcv; kcv asks for nothing that the file already says.
"""

from kcv.artifact.file import describe_again, is_described, read_info, save
from kcv.artifact.info import ArtifactInfo
from kcv.artifact.loaded import LoadedModel
from kcv.artifact.opening import load, load_keras
from kcv.artifact.split import data_config, is_own_data, load_split, working_folder

__all__ = [
    "ArtifactInfo",
    "LoadedModel",
    "data_config",
    "describe_again",
    "is_described",
    "is_own_data",
    "load",
    "load_keras",
    "load_split",
    "read_info",
    "save",
    "working_folder",
]
