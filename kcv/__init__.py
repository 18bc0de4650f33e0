"""kcv trains, evaluates, exports and runs image classifiers: Keras 3 on PyTorch, at PyTorch's speed.

    from kcv import Config, train, load_model, evaluate, predict, export, explain,
        gradcam, report

Importing kcv loads none of Keras, torch and MLflow; they come with the first name that needs them.
"""

# `python -m kcv` begins here, with the working folder as the first place that modules come from (see __main__.py). So
# nothing is imported that is not loaded already; type checkers know the name.
import sys

from kcv.common.backend import settle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kcv.config import Config
    from kcv.inference.onnx_model import OnnxModel
    from kcv.inference.opening import load as load_model
    from kcv.reporting.plots import save_gradcam_grid
    from kcv.saliency.explainer import gradcam
    from kcv.tasks.check import check
    from kcv.tasks.compare import compare
    from kcv.tasks.evaluate import evaluate
    from kcv.tasks.explain import explain
    from kcv.tasks.export import export
    from kcv.tasks.predict import predict
    from kcv.tasks.report import report
    from kcv.tasks.train import train

__version__ = "0.1.0"
__all__ = [
    "Config", "OnnxModel", "__version__", "check", "compare", "evaluate", "explain", "export", "gradcam", "load_model",
    "predict", "report", "save_gradcam_grid", "train",
]  # fmt: skip

settle()

_PUBLIC = {
    "Config": ("kcv.config", "Config"),
    "train": ("kcv.tasks.train", "train"),
    "load_model": ("kcv.inference.opening", "load"),
    "check": ("kcv.tasks.check", "check"),
    "compare": ("kcv.tasks.compare", "compare"),
    "evaluate": ("kcv.tasks.evaluate", "evaluate"),
    "explain": ("kcv.tasks.explain", "explain"),
    "export": ("kcv.tasks.export", "export"),
    "gradcam": ("kcv.saliency.explainer", "gradcam"),
    "OnnxModel": ("kcv.inference.onnx_model", "OnnxModel"),
    "predict": ("kcv.tasks.predict", "predict"),
    "report": ("kcv.tasks.report", "report"),
    "save_gradcam_grid": ("kcv.reporting.plots", "save_gradcam_grid"),
}


def __getattr__(name: str) -> object:
    """Imports a public name when it is first used."""
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
