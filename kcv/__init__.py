"""kcv trains, evaluates, exports and runs image classifiers with Keras 3 on PyTorch, at the speed of PyTorch.

    from kcv import Config, train, tune, load_model, evaluate, predict, export, explain,
        gradcam, report

Importing kcv does not import Keras, torch or MLflow; the first name that needs them does.
"""

# `python -m kcv` starts here, with the working folder first in the module search path (see __main__.py). So this file
# imports only modules that are already loaded; type checkers know `TYPE_CHECKING` by name.
import sys

from kcv.common.backend import configure_keras

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kcv.config import Config
    from kcv.inference.onnx_model import OnnxModel
    from kcv.inference.opening import load as load_model
    from kcv.reporting.plots import save_gradcam_grid
    from kcv.saliency.explainer import gradcam
    from kcv.tasks.check import check
    from kcv.tasks.compare import compare
    from kcv.tasks.embed import embed
    from kcv.tasks.evaluate import evaluate
    from kcv.tasks.explain import explain
    from kcv.tasks.export import export
    from kcv.tasks.find_lr import find_lr
    from kcv.tasks.predict import predict
    from kcv.tasks.push import push
    from kcv.tasks.report import report
    from kcv.tasks.similar import similar
    from kcv.tasks.train import train
    from kcv.tasks.train_folds import train_folds
    from kcv.tasks.tune import tune

__version__ = "0.1.0"
__all__ = [
    "Config", "OnnxModel", "__version__", "check", "compare", "embed", "evaluate", "explain", "export", "find_lr",
    "gradcam", "load_model", "predict", "push", "report", "save_gradcam_grid", "similar", "train", "train_folds",
    "tune",
]  # fmt: skip

configure_keras()

_PUBLIC = {
    "Config": ("kcv.config", "Config"),
    "train": ("kcv.tasks.train", "train"),
    "train_folds": ("kcv.tasks.train_folds", "train_folds"),
    "tune": ("kcv.tasks.tune", "tune"),
    "load_model": ("kcv.inference.opening", "load"),
    "check": ("kcv.tasks.check", "check"),
    "compare": ("kcv.tasks.compare", "compare"),
    "embed": ("kcv.tasks.embed", "embed"),
    "evaluate": ("kcv.tasks.evaluate", "evaluate"),
    "explain": ("kcv.tasks.explain", "explain"),
    "export": ("kcv.tasks.export", "export"),
    "find_lr": ("kcv.tasks.find_lr", "find_lr"),
    "gradcam": ("kcv.saliency.explainer", "gradcam"),
    "OnnxModel": ("kcv.inference.onnx_model", "OnnxModel"),
    "predict": ("kcv.tasks.predict", "predict"),
    "push": ("kcv.tasks.push", "push"),
    "report": ("kcv.tasks.report", "report"),
    "save_gradcam_grid": ("kcv.reporting.plots", "save_gradcam_grid"),
    "similar": ("kcv.tasks.similar", "similar"),
}


def __getattr__(name: str) -> object:
    """Imports a public name on first use."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'kcv' has no attribute {name!r}")
    keras = sys.modules.get("keras")
    if keras is not None and name != "Config" and (backend := keras.config.backend()) != "torch":
        raise ImportError(
            f"kcv runs on Keras' torch backend, but Keras was imported with {backend!r}; import kcv first"
        )
    import importlib

    module, attribute = _PUBLIC[name]
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
