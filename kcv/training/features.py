"""Frozen features in place of images: computed once, stored on disk, and passed to the head.

The output of a frozen backbone for an image never changes, so it need not be computed again every epoch. The head is
trained on features whether they are stored or not; the two ways differ only in when they are computed and by whom.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import torch

from kcv.common.progress import Progress, duration
from kcv.config import AugmentConfig, Config
from kcv.data.archives.members import MemberImages
from kcv.data.augment.pipeline import without_mixing
from kcv.data.batches import InferenceBatches, TrainingBatches
from kcv.data.dataset import Images
from kcv.data.objects.images import ObjectImages
from kcv.distributed.group import SINGLE_PROCESS, Group
from kcv.inference import outputs
from kcv.training.feature_batches import FeatureBatches, Features
from kcv.training.feature_files import filled, open_kept, path_of, prune

_log = logging.getLogger(__name__)

_FORMAT = 4
"""Increase it when the values for the same key, the order of their rows, or the way they are stored changes."""
_BATCH = 64  # enough to saturate a CPU; larger batches only need more memory


def views_kept(config: Config) -> int | None:
    """Returns how many views of each training image are kept as features; None if every epoch computes them again."""
    augment, count = config.augment, config.model.feature_views
    if count is not None:
        augment = without_mixing(augment)  # features of mixed images cannot be kept
    # Without augmentation, all views would be identical.
    return 1 if augment == AugmentConfig() else count


class FeatureStore:
    """Computes and stores the features of one backbone on one set of images.

    Args:
        backbone: a model that maps images to features.
        config: the run's configuration.
        identity: what determines the features besides backbone and images: how images are resized, versions.
        device: device of the backbone.
        epochs: number of epochs that will use the features.
        group: the processes; those of one machine share the work and the files.
    """

    def __init__(
        self,
        backbone: keras.Model,
        config: Config,
        identity: Sequence[str],
        device: str,
        epochs: int,
        group: Group = SINGLE_PROCESS,
    ) -> None:
        self._config = config
        self._epochs = epochs
        self._group = group.local
        self._used: set[Path] = set()
        self._device = device
        self._width = int(backbone.output_shape[-1])
        self._forward = outputs.native_forward(backbone)
        self._identity = (str(_FORMAT), *identity, _digest(backbone))
        self._told = False

    def training(self, batches: TrainingBatches) -> FeatureBatches:
        """Returns the training batches with features in place of images."""
        augment, count = self._config.augment, views_kept(self._config)
        if count is None:
            _log.info(
                "features   computed again in each epoch, for each is augmented; model.feature_views=N keeps N views"
            )
            return FeatureBatches(batches, self._forward, None)
        if augment.mixup or augment.cutmix:
            _log.info("features   kept without mixup and cutmix, which begin when the backbone is unfrozen")
            augment, batches = without_mixing(augment), batches.unmixed()
        if augment == AugmentConfig():
            return FeatureBatches(batches, self._forward, [self._plain("train", batches.images, self._group)])
        drawn = (augment.model_dump_json(), str(self._config.seed), str(self._config.data.batch_size))
        views = []
        count = min(count, self._epochs)  # epoch e uses view e: further views would never be used
        for view in range(count):
            own = batches.shared(self._group.share)
            own.set_epoch(view)
            views.append(self._kept(f"train, view {view + 1} of {count}", (*drawn, str(view)), own, self._group))
        return FeatureBatches(batches, self._forward, views)

    def validation(self, batches: InferenceBatches) -> FeatureBatches:
        """Returns the validation batches with features in place of images."""
        return FeatureBatches(batches, self._forward, [self._plain("val", batches.images, SINGLE_PROCESS)])

    def _plain(self, split: str, images: Images, group: Group) -> Features:
        batches = InferenceBatches(
            images,
            batch_size=min(_BATCH, outputs.batch_size_for(images.size)),
            device=self._device,
            num_classes=int(images.labels.max()) + 1,
            workers=self._config.data.workers,
            share=group.share,
        )
        try:
            return self._kept(split, (), batches, group)
        finally:
            batches.close()

    def _kept(
        self, what: str, view: Sequence[str], batches: TrainingBatches | InferenceBatches, group: Group
    ) -> Features:
        """Returns the features of one pass over the batches, in the order of the images; computes them if needed.

        Each process of the group provides its own batches.
        """
        key = self._key((what.split(",")[0], _members(batches.images), *view))
        self._used.add(path_of(key))
        shape = (len(batches.images), self._width)
        kept = open_kept(key, shape)
        if all(group.all_gather_object(kept is not None)) and kept is not None:
            _log.info("features   %s: %s images x %s, kept from before", what, *(f"{n:,}" for n in shape))
            return kept
        began = time.perf_counter()
        with (
            filled(key, shape, group, self._tell_not_kept) as values,
            Progress(shape[0] // group.world_size, f"features of {what}") as bar,
            torch.no_grad(),
        ):
            for batch, (places, _) in zip(batches, batches.without_images(), strict=True):
                values[places] = self._forward(batch[0]).float().cpu().numpy()
                bar.advance(len(places))
        seconds = time.perf_counter() - began
        _log.info("features   %s: %s images x %s, computed in %s", what, *(f"{n:,}" for n in shape), duration(seconds))
        if group.is_main_process:
            prune(self._used)
        return values

    def _tell_not_kept(self, reason: str) -> None:
        if not self._told:
            _log.warning("features   %s; they are held for this run alone (KCV_CACHE_DIR: another folder)", reason)
        self._told = True

    def _key(self, view: Sequence[str]) -> str:
        return hashlib.sha256("\0".join((*self._identity, *view)).encode(errors="surrogateescape")).hexdigest()


def _members(images: Images) -> str:
    """Returns the SHA-256 (hex) of a split's images and their order; for files, including modification times."""
    digest = hashlib.sha256(np.ascontiguousarray(images.labels, dtype="<i8").tobytes())
    encoded = images.samples.images
    if isinstance(encoded, MemberImages):  # one file holds them
        changed = encoded.changed
        for name, size in zip(images.names, encoded.sizes.tolist(), strict=True):
            digest.update(f"{len(name)} {name} {size} {changed}".encode(errors="surrogateescape"))
        return digest.hexdigest()
    if isinstance(encoded, ObjectImages):
        for name, size, version in zip(images.names, encoded.sizes.tolist(), encoded.etags, strict=True):
            digest.update(f"{len(name)} {name} {size} {version}".encode(errors="surrogateescape"))
        return digest.hexdigest()
    for name, image in zip(images.names, encoded, strict=True):
        changed = image.stat().st_mtime_ns if isinstance(image, Path) else 0
        digest.update(f"{len(name)} {name} {changed}".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _digest(backbone: keras.Model) -> str:
    """Returns the SHA-256 (hex) of a backbone's layers, their options and their weights."""
    digest = hashlib.sha256()
    for layer in backbone.layers:
        digest.update(json.dumps(layer.get_config(), sort_keys=True, default=str).encode())
    for weight in backbone.weights:
        digest.update(f"{weight.path}{tuple(weight.shape)}".encode())
        digest.update(np.ascontiguousarray(keras.ops.convert_to_numpy(weight)).tobytes())
    return digest.hexdigest()
