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

import kcv
from kcv.config import Config
from kcv.native.parallel import ParallelModel
from kcv.tasks import train

folder, kill, settings = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
rank = int(os.environ.get("RANK", "0"))

fit, steps, resolve = train.fit, 0, train.resolve_precision
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


train.fit, ParallelModel.train_step = fit_and_tell, mortal_step
if settings.pop("double", False):
    train.resolve_precision = double_precision
resume = settings.pop("resume", None)
kcv.train(None if resume else Config.load(None, **settings), resume=resume)
