import random
from itertools import chain, pairwise

import numpy as np
import pytest
import torch

from kcv.config import AugmentConfig
from kcv.data.batches import InferenceBatches, TrainingBatches
from kcv.data.dataset import Images, Samples
from kcv.data.order import ProcessShard
from kcv.errors import DataError

SIZE = 8
AUGMENT = AugmentConfig(crop_padding=2, flip="alternating", color_jitter=0.3, cutout=3, cutmix=1.0)


def in_memory(count: int) -> Images:
    """Images whose first pixel's red is their position in the set."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)
    pixels[:, 0, 0, 0] = np.arange(count)
    return Images(Samples(list(pixels), np.arange(count) % 3, [f"train/{i}" for i in range(count)]), SIZE, "squash", pixels)  # fmt: skip  # noqa: E501


def training(
    images: Images, *, batch_size: int = 8, seed: int = 1, workers: int = 0, augment: AugmentConfig = AUGMENT,
    label_smoothing: float = 0.0, share: ProcessShard | None = None,
) -> TrainingBatches:  # fmt: skip
    return TrainingBatches(images, num_classes=3, batch_size=batch_size, augment=augment, seed=seed,
                           label_smoothing=label_smoothing, device="cpu", workers=workers, share=share)  # fmt: skip


def plain(images: Images, **options: int) -> TrainingBatches:
    return training(images, augment=AugmentConfig(), **options)


def same(left: object, right: object) -> bool:
    pairs = list(zip(left, right, strict=True))  # type: ignore[call-overload]
    assert pairs
    return all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in pairs)


def positions(batches: TrainingBatches) -> list[list[int]]:
    return [images[:, 0, 0, 0].tolist() for images, _ in batches.loader()]


@pytest.mark.parametrize(("count", "sizes"), [(20, [7, 7, 6]), (16, [8, 8]), (17, [6, 6, 5]), (3, [3]), (1, [1])])
def test_an_epoch_is_each_image_once_in_nearly_equal_batches(count: int, sizes: list[int]) -> None:
    batches = plain(in_memory(count))
    parts = positions(batches)
    assert [len(part) for part in parts] == sizes
    assert len(batches) == len(batches.loader()) == len(sizes)
    assert sorted(chain.from_iterable(parts)) == list(range(count))


def test_images_and_targets_stay_together() -> None:
    stored = in_memory(20)
    for images, targets in plain(stored):
        indices = images[:, 0, 0, 0].long()
        assert torch.equal(images, torch.from_numpy(stored.pixels)[indices])
        assert images.dtype == torch.uint8
        assert targets.dtype == torch.float32
        assert torch.equal(targets, torch.eye(3)[indices % 3])


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    batches = plain(in_memory(60))
    orders = []
    for epoch in range(3):
        batches.set_epoch(epoch)
        orders.append(positions(batches))
    orders.append(positions(plain(in_memory(60), seed=2)))
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])
    batches.set_epoch(0)
    assert positions(batches) == orders[0]


def test_an_iteration_keeps_the_epoch_it_began_with_and_repeats_without_set_epoch() -> None:
    batches = plain(in_memory(20))
    whole = positions(batches)
    assert positions(batches) == whole
    iterator = iter(batches.loader())
    unstarted = iter(batches.loader())
    began = [next(iterator)[0][:, 0, 0, 0].tolist()]
    batches.set_epoch(1)
    assert began + [images[:, 0, 0, 0].tolist() for images, _ in iterator] == whole
    # Keras makes the next epoch's iterator before `on_epoch_begin`: it counts from its first batch.
    assert [images[:, 0, 0, 0].tolist() for images, _ in unstarted] == positions(batches) != whole


def test_a_step_repeats_without_the_steps_before_it() -> None:
    batches = training(in_memory(40))
    batches.set_epoch(3)
    passed = list(batches.loader())
    fresh = training(in_memory(40))
    assert same([fresh.batch(3, 4), fresh.batch(3, 1)], [passed[4], passed[1]])
    with pytest.raises(IndexError, match="steps 0 to 4"):
        fresh.batch(0, 5)


def test_each_step_and_epoch_draws_again() -> None:
    """One image, cropped at random: were a step's generator seeded by epoch or step alone, crops would repeat."""
    pixels = np.random.default_rng(0).integers(0, 256, (1, SIZE, SIZE, 3), dtype=np.uint8).repeat(6, 0)
    images = Images(Samples(list(pixels), np.zeros(6, np.int64), list("abcdef")), SIZE, "squash", pixels)
    batches = training(images, batch_size=2, augment=AugmentConfig(crop_padding=7, cutout=3))
    drawn = [batches.batch(epoch, step)[0] for epoch in range(3) for step in range(3)]
    assert not any(torch.equal(a, b) for i, a in enumerate(drawn) for b in drawn[:i])


def test_global_generators_are_neither_read_nor_moved() -> None:
    def state() -> tuple[object, ...]:
        return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()

    before = state()
    first = list(training(in_memory(20)).loader())
    assert state() == before
    torch.manual_seed(1234)
    np.random.seed(1234)
    random.seed(1234)
    assert same(first, training(in_memory(20)).loader())


def test_images_in_memory_are_not_changed_by_augmentation() -> None:
    images = in_memory(20)
    assert images.pixels is not None
    before = images.pixels.copy()
    list(training(images))
    np.testing.assert_array_equal(images.pixels, before)


def test_read_only_pixels_are_fine() -> None:
    images = in_memory(5)
    assert images.pixels is not None
    images.pixels.flags.writeable = False
    assert len(list(training(images))) == 1


def test_label_smoothing_is_for_training_targets_alone() -> None:
    images = in_memory(3)
    ((_, targets),) = training(images, augment=AugmentConfig(), label_smoothing=0.3)
    order = training(images).order(0)[0].indices
    torch.testing.assert_close(targets, (torch.eye(3) * 0.7 + 0.1)[order])
    ((_, plain_targets),) = InferenceBatches(images, batch_size=4, device="cpu", num_classes=3)
    assert torch.equal(plain_targets, torch.eye(3))


def test_mixed_labels_are_mixed_after_smoothing() -> None:
    _, targets = training(in_memory(8), augment=AugmentConfig(cutmix=1.0), label_smoothing=0.3).batch(0, 0)
    torch.testing.assert_close(targets.sum(1), torch.ones(8))
    assert targets.min() >= 0.1 - 1e-6
    assert ((targets > 0.11) & (targets < 0.79)).any()


def test_inference_keeps_the_order_and_the_images() -> None:
    stored = in_memory(20)
    batches = InferenceBatches(stored, batch_size=8, device="cpu", num_classes=5)
    images, targets = (torch.cat(parts) for parts in zip(*batches.loader(), strict=True))
    assert len(batches) == len(batches.loader()) == 3
    assert torch.equal(images, torch.from_numpy(stored.pixels))
    assert torch.equal(targets, torch.eye(5)[torch.arange(20) % 3])


def test_no_images_are_an_error() -> None:
    with pytest.raises(DataError, match="no images"):
        plain(in_memory(0))


def test_keras_fit_takes_the_loaders_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    import keras

    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    class Spy(keras.Model):  # type: ignore[misc]
        def train_step(self, data: tuple[torch.Tensor, torch.Tensor]) -> object:
            seen.append(data)
            return super().train_step(data)

    made: list[tuple[torch.Tensor, torch.Tensor]] = []
    finish = TrainingBatches._finish

    def keep(*args: object) -> tuple[torch.Tensor, torch.Tensor]:
        made.append(finish(*args))
        return made[-1]

    monkeypatch.setattr(TrainingBatches, "_finish", keep)
    stored = in_memory(20)
    batches = training(stored, batch_size=8)
    validation = InferenceBatches(stored, batch_size=8, device="cpu", num_classes=3)
    inputs = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    outputs = keras.layers.Dense(3)(keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs)))
    with keras.device("cpu"):
        model = Spy(inputs, outputs)
    model.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    history = model.fit(
        batches.loader(),
        epochs=3,
        verbose=0,
        shuffle=False,
        validation_data=validation.loader(),
        callbacks=[
            keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: batches.set_epoch(epoch)),
        ],
    )
    assert history.params["steps"] == len(batches) == 3
    assert {"loss", "accuracy", "val_loss", "val_accuracy"} <= set(history.history)
    assert len(seen) == 9
    # The very tensors, not copies by way of numpy; of each epoch its own, first to last.
    identities = {id(images) for images, _ in made}
    assert all(id(images) in identities for images, _ in seen)
    fresh = training(stored, batch_size=8)
    assert same(seen, [fresh.batch(epoch, step) for epoch in range(3) for step in range(3)])
    assert all(not torch.equal(a[0], b[0]) for a, b in pairwise(seen) if len(a[0]) == len(b[0]))


SHARED = [
    AugmentConfig(crop_padding=1, flip="random", color_jitter=0.3, hue=0.1),
    AugmentConfig(flip="alternating", cutout=2, random_erasing=0.8),
]


@pytest.mark.parametrize("augment", SHARED, ids=["crop", "blank"])
@pytest.mark.parametrize("processes", [2, 3])
def test_processes_together_see_what_one_would_see(augment: AugmentConfig, processes: int) -> None:
    images = in_memory(20)
    shares = [training(images, augment=augment, share=ProcessShard(rank, processes)) for rank in range(processes)]
    alone = training(images, augment=augment)
    for epoch in (0, 1):
        for batches in (alone, *shares):
            batches.set_epoch(epoch)
        parts = list(zip(*shares, strict=True))
        together = [tuple(torch.cat([part[item] for part in step]) for item in (0, 1)) for step in parts]
        assert same(together, alone)


def test_mixed_images_keep_their_own_proportions_in_a_share() -> None:
    images, config = in_memory(20), AugmentConfig(cutmix=1.0)
    whole = [training(images, augment=config, share=ProcessShard(rank, 2)).order(0)[0] for rank in range(2)]
    assert [(part.begin, part.total) for part in whole] == [(0, 7), (3, 7)]
    alone, second = training(images, augment=config), training(images, augment=config, share=ProcessShard(1, 2))
    own = alone.order(0)[0].indices[3:] % 3
    # Of all but the first, which finds its partner among its own, the targets are those of a single process.
    assert len(own) == 4
    assert torch.equal(second.batch(0, 0)[1][1:], alone.batch(0, 0)[1][4:])


def test_the_parts_of_a_batch_weigh_what_they_hold() -> None:
    shares = [training(in_memory(20), share=ProcessShard(rank, 3)) for rank in range(3)]
    for step in zip(*shares, strict=True):
        total = sum(len(images) for images, _, _ in step)
        for images, _, weight in step:
            assert float(weight) == pytest.approx(len(images) * 3 / total)
    assert [batches.seen(0) for batches in shares] == [6, 6, 8]


def test_processes_measure_each_batch_once_and_as_one_would() -> None:
    images, options = in_memory(20), {"batch_size": 6, "device": "cpu", "num_classes": 3}
    for processes in (2, 3, 5):  # of four batches, one of five processes gets none
        shares = [InferenceBatches(images, **options, share=ProcessShard(rank, processes)) for rank in range(processes)]
        assert same(list(chain.from_iterable(shares)), InferenceBatches(images, **options))


def test_batches_too_small_for_the_processes_are_refused() -> None:
    with pytest.raises(DataError, match="batches of 2 of 4 images cannot be shared by 3 processes"):
        training(in_memory(4), batch_size=2, share=ProcessShard(0, 3))


SINGLE = AugmentConfig(policy="strong", auto_augment="randaugment", vertical_flip=True)


def test_processes_and_a_resumed_run_see_the_images_of_one_process() -> None:
    images = in_memory(30)
    whole = training(images, batch_size=10, augment=SINGLE)
    parts = [training(images, batch_size=10, augment=SINGLE, share=ProcessShard(rank, 2)) for rank in (0, 1)]
    for epoch, step in ((0, 0), (4, 2)):
        alone, targets = whole.batch(epoch, step)
        shares = [part.batch(epoch, step) for part in parts]
        assert torch.equal(torch.cat([share[0] for share in shares]), alone)
        assert torch.equal(torch.cat([share[1] for share in shares]), targets)
    whole.set_epoch(4, start=2)
    resumed = list(whole.loader())[2:]
    assert same(resumed, [training(images, batch_size=10, augment=SINGLE).batch(4, 2)])


def test_batches_can_go_without_mixing() -> None:
    images = in_memory(20)
    mixed = training(images, augment=AugmentConfig(crop_padding=2, mixup=0.3, cutmix=1.0))
    assert same(mixed.unmixed(), training(images, augment=AugmentConfig(crop_padding=2)))
    assert not same(mixed, mixed.unmixed())
