"""The training loss with weights of classes, and the focal loss: against scikit-learn, torch and Keras."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional

from kcv.config import OptimConfig
from kcv.data.augment.mix import mixup
from kcv.errors import ConfigError
from kcv.native.model import NativeModel
from kcv.training.loss import build_loss, class_weights, focal_loss, image_weights

NAMES = ("cat", "dog", "eel")
LABELS = np.repeat(np.arange(3), (60, 30, 10))


def batch(smoothing: float = 0.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns labels, targets and logits of twelve images."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (12,), generator=generator)
    targets = functional.one_hot(labels, 3).float() * (1 - smoothing) + smoothing / 3
    return labels, targets, 2 * torch.randn((12, 3), generator=generator)


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    found = class_weights("balanced", LABELS, NAMES)
    assert found is not None
    np.testing.assert_allclose(found, compute_class_weight("balanced", classes=np.arange(3), y=LABELS))


def test_weights_have_a_mean_of_one_over_the_images() -> None:
    for asked in ("balanced", "sqrt"):
        found = class_weights(asked, LABELS, NAMES)
        assert found is not None and found[LABELS].mean() == pytest.approx(1)
    root = class_weights("sqrt", LABELS, NAMES)
    assert root is not None and root[2] / root[0] == pytest.approx(6**0.5)
    absent = class_weights("balanced", np.array([0, 0, 1]), NAMES)
    assert absent is not None and absent[:2].tolist() == [0.75, 1.5]


def test_weights_by_name_are_used_as_they_are() -> None:
    found = class_weights({"eel": 5.0, "cat": 0.5}, LABELS, NAMES)
    assert found is not None and found.tolist() == [0.5, 1.0, 5.0]
    assert class_weights("none", LABELS, NAMES) is None
    with pytest.raises(ConfigError, match=r"no class 'eels', allowed: 'cat', 'dog', 'eel'. Did you mean 'eel'"):
        class_weights({"eels": 5.0}, LABELS, NAMES)


def test_plain_cross_entropy_is_left_to_keras() -> None:
    assert build_loss(OptimConfig(), None) is None
    assert build_loss(OptimConfig(loss="focal", focal_gamma=0.0), None) is None


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_weight_of_an_image_is_that_of_its_class(smoothing: float) -> None:
    labels, targets, logits = batch(smoothing)
    weights = np.array([0.5, 1.0, 5.0])
    loss = build_loss(OptimConfig(label_smoothing=smoothing), weights)
    assert loss is not None
    each = functional.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
    expected = (each * torch.from_numpy(weights)[labels]).mean()
    torch.testing.assert_close(loss(targets, logits), expected.float())


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_mixed_images_have_the_weights_of_their_classes_in_proportion(smoothing: float) -> None:
    labels, targets, _ = batch(smoothing)
    keep = torch.linspace(0, 1, 12)
    _, mixed = mixup(torch.zeros((12, 2, 2, 3)), targets, keep)
    weights = torch.tensor([0.5, 1.0, 5.0])
    expected = keep * weights[labels] + (1 - keep) * weights[labels.roll(1)]
    torch.testing.assert_close(image_weights(mixed, weights, smoothing), expected)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_the_focal_loss_is_that_of_keras(gamma: float) -> None:
    _, targets, logits = batch(0.1)
    reference = keras.losses.CategoricalFocalCrossentropy(alpha=1.0, gamma=gamma, from_logits=True, reduction=None)
    torch.testing.assert_close(focal_loss(targets, logits, gamma), reference(targets, logits), rtol=1e-4, atol=1e-5)


def test_the_focal_loss_has_a_gradient_where_an_image_is_certain() -> None:
    for gamma in (0.5, 2.0):
        logits = torch.tensor([[200.0, 0.0, -200.0]], requires_grad=True)
        (gradient,) = torch.autograd.grad(focal_loss(torch.tensor([[0.9, 0.1, 0.0]]), logits, gamma).sum(), logits)
        assert torch.isfinite(gradient).all()


def test_validation_stays_plain_and_penalties_are_part_of_both() -> None:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    outputs = keras.layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.1))(inputs)
    model = NativeModel(keras.Model(inputs, outputs))
    model.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True))
    _, targets, _ = batch()
    x = torch.randn((12, 4), generator=torch.Generator().manual_seed(1))
    logits = model(x)
    penalty = 0.1 * model.core.layers[1].kernel.value.square().sum()
    plain = functional.cross_entropy(logits, targets)

    def losses() -> Any:
        given = {"x": x, "y": targets, "y_pred": logits}
        return model.compute_loss(**given, training=True), model.compute_loss(**given, training=False)

    torch.testing.assert_close(losses()[0], plain + penalty)
    model.training_loss = lambda targets, logits: 3 * functional.cross_entropy(logits, targets)
    trained, validated = losses()
    torch.testing.assert_close(trained, 3 * plain + penalty)
    torch.testing.assert_close(validated, plain + penalty)


def test_parts_of_a_batch_weigh_as_the_whole() -> None:
    _, targets, logits = batch(0.1)
    loss = build_loss(OptimConfig(loss="focal"), np.array([0.5, 1.0, 5.0]))
    assert loss is not None
    parts = [loss(targets[begin : begin + 4], logits[begin : begin + 4]) / 3 for begin in (0, 4, 8)]
    torch.testing.assert_close(sum(parts), loss(targets, logits))
