"""Wrong labels by confident learning: a case small enough to be computed by hand, and properties."""

from __future__ import annotations

import numpy as np
import pytest

from kcv.metrics.confident_learning import confident_classes, confident_joint, find_label_errors, usual_confidence

# Labels 0, 0, 0, 0, 1, 1, 1 of two classes. The mean probability of class 0 over the images labelled 0 is
# (0.9 + 0.8 + 0.7 + 0.2) / 4 = 0.65, that of class 1 over those labelled 1 (0.9 + 0.6 + 0.3) / 3 = 0.6.
LABELS = np.array([0, 0, 0, 0, 1, 1, 1])
OF_ZERO = np.array([0.9, 0.8, 0.7, 0.2, 0.1, 0.4, 0.7])
PROBABILITIES = np.stack([OF_ZERO, 1 - OF_ZERO], axis=1)


def test_the_thresholds_by_hand() -> None:
    assert usual_confidence(LABELS, PROBABILITIES) == pytest.approx([0.65, 0.6])


def test_the_confident_joint_by_hand() -> None:
    assert confident_classes(LABELS, PROBABILITIES).tolist() == [0, 0, 0, 1, 1, 1, 0]
    cells, scaled = confident_joint(LABELS, PROBABILITIES)
    assert cells.matrix().tolist() == [[3, 1], [1, 2]]
    assert scaled == pytest.approx([3, 1, 1, 2])


def test_the_suspects_by_hand() -> None:
    found = find_label_errors(LABELS, PROBABILITIES)
    assert found.positions.tolist() == [3, 6]  # probabilities of the label 0.2 and 0.3
    assert found.suggested.tolist() == [1, 0]
    assert found.estimated == pytest.approx(2)


def test_of_an_image_that_passes_several_thresholds_the_likeliest_class_counts_and_some_count_as_none() -> None:
    labels = np.array([0, 1, 2, 2])
    probabilities = np.array([[0.3, 0.4, 0.3], [0.5, 0.3, 0.2], [0.2, 0.2, 0.6], [0.29, 0.29, 0.42]])
    # Thresholds 0.3, 0.3 and 0.51: the last image reaches none of them.
    assert confident_classes(labels, probabilities).tolist() == [1, 0, 2, -1]
    cells, scaled = confident_joint(labels, probabilities)
    assert cells.matrix().tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1]]
    assert scaled == pytest.approx([1, 1, 2])  # the two images labelled 2 count, too


def test_a_class_without_images_is_never_suggested_by_the_thresholds() -> None:
    labels = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.1, 0.1, 0.8], [0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.8, 0.1]])
    assert usual_confidence(labels, probabilities)[2] == np.inf
    assert len(find_label_errors(labels, probabilities).positions) == 0


def test_right_labels_have_no_suspects() -> None:
    labels = np.arange(50) % 5
    probabilities = np.full((50, 5), 0.05) + 0.75 * np.eye(5)[labels]
    found = find_label_errors(labels, probabilities)
    assert len(found.positions) == 0
    assert found.estimated == 0


def test_flipped_labels_are_found_among_many() -> None:
    rng = np.random.default_rng(0)
    true = np.arange(2000) % 4
    logits = 4 * np.eye(4)[true] + rng.normal(0, 1.2, (2000, 4))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    flipped = rng.choice(2000, 100, replace=False)
    labels = true.copy()
    labels[flipped] = (true[flipped] + rng.integers(1, 4, 100)) % 4
    found = find_label_errors(labels, probabilities)
    assert 85 <= found.estimated <= 140
    hits = np.isin(found.positions, flipped)
    assert hits.sum() >= 85
    assert hits[:50].mean() >= 0.98
    assert (found.suggested == true[found.positions])[hits].mean() >= 0.95
    assert (np.diff(probabilities[found.positions, labels[found.positions]]) >= 0).all()
