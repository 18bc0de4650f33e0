"""A model file as a model of MLflow: the files of an `MLmodel` folder around it.

`mlflow.pyfunc.load_model` and `mlflow models serve` open it by `kcv.mlflow_model`, through kcv's own checks, and
`mlflow.keras.load_model` as a plain Keras model. Nothing in it is pickled.

Source: MLflow documentation, "MLflow Models", storage format and signatures.
"""

from __future__ import annotations

import base64
import io
import json
import platform
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from kcv import __version__
from kcv.artifact import read_info
from kcv.common.packages import installed

LOADER = "kcv.mlflow_model"
"""The module that opens such a folder. Its name is in every folder, so it must stay."""

_DATA = "data"
_GREY = 128
_PACKAGES = ("keras", "numpy", "pillow", "torch")
_MLFLOW = ("mlflow", "mlflow-skinny")
"""The packages that provide MLflow, the whole one first, which includes the other."""
_INPUTS = [{"type": "binary", "required": True}]  # without a name: bytes, a list of them and any column fit
_OUTPUTS = [
    {"name": "label", "type": "string", "required": True},
    {"name": "likeliest", "type": "string", "required": True},
    {"name": "confidence", "type": "double", "required": True},
    {"name": "probabilities", "type": "map", "values": {"type": "double"}, "required": True},
    {"name": "prediction_set", "type": "array", "items": {"type": "string"}, "required": False},
]


def mlflow_files(model: Path) -> dict[str, Path | str]:
    """Returns the files of the folder by their path in it: paths of files, or the text of a file.

    Args:
        model: a model file, `model.keras`.

    Raises:
        ArtifactError: the file cannot be read.
    """
    info = read_info(model)
    example = _example(info.image_size)
    versions = installed((*_PACKAGES, *_MLFLOW))
    mlflow = next(name for name in _MLFLOW if name in versions)
    packages = sorted((*_PACKAGES, mlflow))
    requirements = [f"kcv=={__version__}", *(f"{name}=={_public(versions[name])}" for name in packages)]
    described = {
        "artifact_path": "model",
        "flavors": {
            "keras": {
                "data": _DATA,
                "keras_backend": "torch",
                "keras_version": versions["keras"],
                "save_exported_model": False,
            },
            "python_function": {
                "data": _DATA,
                "env": {"virtualenv": "python_env.yaml"},
                "loader_module": LOADER,
                "python_version": platform.python_version(),
            },
        },
        "metadata": {
            "class_names": list(info.class_names),
            "data_fingerprint": info.data_fingerprint,
            "image_size": info.image_size,
            "kcv_version": __version__,
            "model_name": info.model_name,
        },
        "mlflow_version": versions[mlflow],
        "model_uuid": uuid.uuid4().hex,
        "saved_input_example_info": {
            "artifact_path": "input_example.json",
            "pandas_orient": "split",
            "serving_input_path": "serving_input_example.json",
            "type": "dataframe",
        },
        "signature": {"inputs": json.dumps(_INPUTS), "outputs": json.dumps(_OUTPUTS), "params": None},
        "utc_time_created": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f"),
    }
    return {
        f"{_DATA}/model.keras": model,
        "requirements.txt": "".join(f"{line}\n" for line in requirements),
        "python_env.yaml": _yaml(
            {
                "python": platform.python_version(),
                "build_dependencies": ["pip"],
                "dependencies": ["-r requirements.txt"],
            }
        ),
        "input_example.json": json.dumps(example),
        "serving_input_example.json": json.dumps({"dataframe_split": example}),
        "MLmodel": _yaml(described),  # last: a folder with it is complete
    }


def _example(size: int) -> dict[str, Any]:
    """Returns an input in the form of `dataframe_split`: a grey image, because those of the data may be private."""
    stream = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), _GREY, np.uint8)).save(stream, "PNG")
    return {"columns": ["image"], "data": [[base64.b64encode(stream.getvalue()).decode()]]}


def _public(found: str) -> str:
    """Returns a version without its local part (`+cpu`), which no package index knows."""
    return found.partition("+")[0]


def _yaml(values: dict[str, Any]) -> str:
    return yaml.safe_dump(values, allow_unicode=True, sort_keys=False)
