"""The verb `train`: a configuration from a file and from flags, and `kcv.train` with it.

`kcv.train` takes a `Config`. On the command line each of its keys is a flag.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kcv.common.files import expand_user
from kcv.data.fold import Count
from kcv.errors import UsageError

if TYPE_CHECKING:
    from kcv.tasks.find_lr import LearningRates
    from kcv.tasks.train_folds import Folds
    from kcv.training.run_folder import Run


def train(
    config: str | Path | None = None,
    *,
    resume: str | Path | None = None,
    find_lr: bool = False,
    folds: Count | None = None,
    ensemble: bool = False,
    **overrides: Any,
) -> Run | LearningRates | Folds:
    """Train a model and leave a run folder with it.

    Args:
        config: a YAML file; without one, the defaults below.
        resume: continue the interrupted run in this folder. What else is in the folder's configuration, the user may
            never have seen: what may reach another machine must then be named again. Also the folder of a training in
            folds.
        find_lr: train for some 100 steps at growing learning rates, suggest one, and stop. Nothing else is trained, and
            no model is kept; `lr_finder.png` and `lr_finder.csv` show the loss.
        folds: train a model per fold of the data, measure all images out of fold, then train a final model; 5 is usual.
        ensemble: with --folds: instead of a final model, write the models of the folds as one ONNX file, ensemble.onnx.
        **overrides: keys of the configuration, by dotted name or short flag; see `kcv.Config`.

    Raises:
        ConfigError: with every problem of the configuration, before any data is read.
        KcvError: as `kcv.train`.

    Example:
        $ kcv train configs/quickstart.yaml
        $ kcv train --data=path/to/images --epochs=30 --output_dir=runs/mine
        $ kcv train --resume=runs/mine
        $ kcv train configs/quickstart.yaml --find_lr
        $ kcv train --data=path/to/few/images --folds=5
    """
    from kcv.common.untrusted import inside
    from kcv.config import SHORT_FLAGS, Config
    from kcv.config.keys import specify

    began = time.perf_counter()
    if find_lr and (resume is not None or folds is not None):
        other = "resume" if resume is not None else "folds"
        raise UsageError(f"--find_lr: allowed without --{other} only, because it trains nothing that is kept.")
    folder = expand_user(resume) if resume is not None else None
    configuration: Config | None = None
    chosen: dict[str, Any] = {}
    if folder is None or config is not None or overrides:
        begun = folder and inside(folder, "config.yaml", error=UsageError)
        configuration = Config.load(config or begun, **overrides)
    if folder is not None and config is None:
        keys = specify(Config, SHORT_FLAGS)
        chosen = {"named": {keys.resolve(name) or name for name in overrides}}
    from kcv.training.folds import is_folds_folder

    if folds is not None or (folder is not None and is_folds_folder(folder)):
        from kcv.tasks.train_folds import train_folds

        return train_folds(configuration, folds, ensemble=ensemble, resume=folder, **chosen)
    if ensemble:
        raise UsageError("--ensemble needs --folds=K, the number of models.")
    if find_lr:
        from kcv.tasks.find_lr import find_lr as test_rates

        return test_rates(configuration or Config())
    from kcv.tasks import train as training

    return training.train(configuration, resume=folder, began=began, **chosen)
