"""One process of a training under torchrun, for the tests beside it: trains, and leaves what its model came to.

Called as `worker.py FOLDER KILL JSON`: KILL is `rank:step` of the process that dies by SIGKILL before that step of the
first start, or `none`; JSON holds the configuration.
"""

import hashlib
import json
import os
import signal
import sys
from pathlib import Path

import keras

import kcv
from kcv.config import Config
from kcv.native.parallel import ParallelModel
from kcv.tasks import train
from kcv.training import loop

folder, kill, settings = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
rank = int(os.environ.get("RANK", "0"))

fit, steps, resolve = train.fit, 0, loop.resolve_precision
train_step = ParallelModel.train_step


def fit_and_tell(model, *args, **kwargs):
    fitted = fit(model, *args, **kwargs)
    digest = hashlib.sha256()
    for variable in model.variables:
        digest.update(variable.value.detach().contiguous().numpy().tobytes())
    (folder / f"rank{rank}.txt").write_text(digest.hexdigest())
    return fitted


def mortal_step(self, data):
    global steps
    if kill == f"{rank}:{steps}" and os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    steps += 1
    return train_step(self, data)


def double_precision(*args, **kwargs):
    return "float64", "for the test: roundings of float32 would hide what is compared"


class Steps(keras.callbacks.Callback):
    """Counts steps, and writes at the end how many there were."""

    def __init__(self, path):
        super().__init__()
        self.steps, self.path = 0, path

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1

    def on_train_end(self, logs=None):
        self.path.write_text(str(self.steps))

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state["steps"]


def extensions(folder, rank):
    """What is passed to `kcv.train`: a model that each process begins with other weights, a callback and a metric."""
    keras.utils.set_random_seed(rank)
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(8, 3, activation="relu")(keras.layers.Rescaling(1 / 255)(inputs))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.BatchNormalization()(x))
    return {
        "model": keras.Model(inputs, keras.layers.Dense(10)(x)),
        "callbacks": [Steps(folder / f"steps{rank}.log")],
        "metrics": [keras.metrics.TopKCategoricalAccuracy(3, name="top3")],
    }


train.fit, ParallelModel.train_step = fit_and_tell, mortal_step
if settings.pop("double", False):
    loop.resolve_precision = double_precision
given = {}
if settings.pop("extended", False):
    given = extensions(folder, rank)
resume = settings.pop("resume", None)
kcv.train(None if resume else Config.load(None, **settings), resume=resume, **given)
