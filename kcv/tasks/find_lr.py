"""The learning-rate range test: data -> model -> some 100 steps at growing rates -> a plot and a suggestion."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from kcv.common.files import write_csv
from kcv.common.launch import Launch
from kcv.config import Config
from kcv.distributed.connecting import connect
from kcv.errors import UsageError
from kcv.native.device import device_scope
from kcv.native.memory import enough_memory
from kcv.native.precision import precision_scope
from kcv.reporting import plots
from kcv.training import lr_range
from kcv.training.extensions import Extensions
from kcv.training.inputs import build, gather
from kcv.training.loop import open_batches
from kcv.training.starting import Start
from kcv.training.time_budget import Clock

__all__ = ["LearningRates", "find_lr"]


@dataclass(frozen=True)
class LearningRates:
    """The result of a learning-rate range test.

    Attributes:
        directory: the folder with `lr_finder.csv` and `lr_finder.png`.
        suggestion: the suggested peak learning rate, `optim.lr`.
        steepest: the rate at which the loss falls fastest.
        configured: the rate in the configuration.
        steps: number of steps.
    """

    directory: Path
    suggestion: float
    steepest: float
    configured: float
    steps: int


def find_lr(config: Config | None = None) -> LearningRates:
    """Trains for some 100 steps at a learning rate that grows from step to step, and suggests one; keeps no weights.

    Args:
        config: what would be trained; see `train`.

    Raises:
        KcvError: as `train`; or the loss never falls.

    Example:
        >>> kcv.find_lr(kcv.Config.load(data="photos")).suggestion
    """
    if Launch.current().is_distributed:
        raise UsageError("--find_lr: allowed without torchrun only.")
    config = config or Config()
    with ExitStack() as held, enough_memory():
        group = held.enter_context(connect())
        begin = Start(Extensions().fit_into(config))
        inputs = gather(begin, Extensions(), group, Clock(config.train.minutes))
        config = inputs.config
        with (
            open_batches(config, inputs.dataset, inputs.device, group) as batches,
            device_scope(inputs.device),
            precision_scope(inputs.policy),
        ):
            found = lr_range.run(build(inputs, group), batches, config, inputs.identity)
    name = datetime.now().strftime("lr_%Y-%m-%d_%H-%M-%S")
    folder = Path(config.output_dir or Path("runs") / config.name / name)
    rows = zip(found.rates, found.losses, found.smoothed, strict=True)
    write_csv(folder / "lr_finder.csv", ("learning_rate", "loss", "smoothed_loss"), rows)
    plots.learning_rate_range(
        found.rates, found.losses, found.smoothed, found.suggestion, config.optim.lr, folder / "lr_finder.png"
    )
    return LearningRates(folder, found.suggestion, found.steepest, config.optim.lr, len(found.rates))
