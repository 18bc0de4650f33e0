"""The stages of a training: which epochs train the head alone, and which the whole model."""

from __future__ import annotations

from dataclasses import dataclass

from kcv.config import Config, OptimConfig


@dataclass(frozen=True)
class Stage:
    """Epochs that are trained with one optimizer and one course of the learning rate.

    Attributes:
        first: the first epoch, from 0.
        end: one past the last epoch.
        frozen: whether the backbone stays as it is.
        last: whether no stage follows.
    """

    first: int
    end: int
    frozen: bool
    last: bool

    def schedule(self, config: OptimConfig) -> OptimConfig:
        """Returns the optimizer's configuration with a warm-up that fits into this stage."""
        length = self.end - self.first
        if config.warmup_epochs < length:
            return config
        return config.model_copy(update={"warmup_epochs": length / 4})


def plan(config: Config) -> tuple[Stage, ...]:
    """Returns the stages of a run, in order: one, or with `model.unfreeze_after` two."""
    epochs, frozen = config.train.epochs, config.model.unfreeze_after
    if config.model.mode == "feature_extraction":
        return (Stage(0, epochs, frozen=True, last=True),)
    if frozen:
        return (Stage(0, frozen, frozen=True, last=False), Stage(frozen, epochs, frozen=False, last=True))
    return (Stage(0, epochs, frozen=False, last=True),)


def learns_batch_norm(config: Config) -> bool:
    """Whether fine-tuning also trains the backbone's BatchNormalization."""
    if config.model.freeze_batch_norm is not None:
        return not config.model.freeze_batch_norm
    # Statistics that were frozen at first must stay so: the weights have learned to live with them.
    return config.model.unfreeze_after == 0
