"""Logits of a whole split: in order, whatever the batches; and probabilities that are probabilities."""

import numpy as np
import pytest
from variants import variants

from kcv.config import DataConfig


def test_softmax_equals_its_definition_and_survives_large_logits():
    from kcv.metrics.temperature import softmax

    logits = np.array([[0.0, 1.0, 2.0], [1000.0, 0.0, -1000.0]], np.float32)
    got = softmax(logits)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got[0], np.exp([0, 1, 2]) / np.exp([0, 1, 2]).sum(), rtol=1e-12)
    np.testing.assert_array_equal(got[1], [1, 0, 0])
    np.testing.assert_allclose(got.sum(axis=1), 1, rtol=1e-12)


@pytest.mark.parametrize("budget", [2048, 0])
@pytest.mark.parametrize("batch_size", variants([7, 1, 256], fast=1))
def test_rows_are_in_the_order_of_the_split(trained_run, images, batch_size, budget):
    from kcv import load_model
    from kcv.data import loading
    from kcv.inference import outputs

    model = load_model(trained_run.model_path)
    config = DataConfig(source=str(images), image_size=16, memory_budget_mb=budget, workers=0)
    test = loading.load_split(config, "test", model.class_names)
    advanced = []
    got = outputs.logits(model.keras_model, test, batch_size=batch_size, workers=0, advance=advanced.append)
    one_by_one = [model.keras_model(test.read(i)[None], training=False).detach().numpy()[0] for i in range(len(test))]
    np.testing.assert_allclose(got, one_by_one, rtol=1e-4, atol=1e-4)
    assert got.dtype == np.float32
    assert sum(advanced) == len(test)


def test_no_batches_give_no_rows(trained_run):
    from kcv import load_model
    from kcv.inference import outputs

    model = load_model(trained_run.model_path).keras_model
    assert outputs.logits_of_batches(model, []).shape == (0, 3)


def test_batches_are_smaller_where_images_are_large():
    from kcv.inference import outputs

    assert [outputs.batch_size_for(size) for size in (32, 224, 512, 1024, 4096, 10_000)] == [256, 256, 85, 21, 1, 1]
