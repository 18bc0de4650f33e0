"""Distillation: the loss by its definition, a teacher of other sizes and orders, and a resume to the bit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from interrupted import Configure, assert_same, disturb, stopped_at
from torch.nn import functional

from kcv.config import Config, OptimConfig
from kcv.errors import ConfigError, DataError, UsageError
from kcv.inference.opening import load
from kcv.tasks.train import train
from kcv.training.distillation import Teacher, distillation_loss, distilled, open_teacher, resized
from kcv.training.loss import build_loss

if TYPE_CHECKING:
    from kcv.training.run_folder import Run

NAMES = ("centre", "left", "top")


def logits(seed: int) -> torch.Tensor:
    return 3 * torch.randn((6, 3), generator=torch.Generator().manual_seed(seed))


def teacher_of(answers: torch.Tensor) -> Teacher:
    return Teacher("ab" * 32, 16, lambda images: answers, torch.arange(3))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_loss_is_the_divergence_of_softened_answers(temperature: float) -> None:
    student, teacher = logits(0), logits(1)
    expected = temperature**2 * functional.kl_div(
        functional.log_softmax(student / temperature, dim=1),
        functional.softmax(teacher / temperature, dim=1),
        reduction="batchmean",
    )
    torch.testing.assert_close(distillation_loss(student, teacher, temperature), expected)
    assert float(distillation_loss(teacher, teacher, temperature)) == pytest.approx(0, abs=1e-6)


def test_labels_and_teacher_share_the_loss_and_the_teacher_has_no_gradient() -> None:
    targets = functional.one_hot(torch.tensor([0, 1, 2, 0, 1, 2]), 3).float()
    student, answers = logits(2).requires_grad_(), logits(3)
    images = torch.zeros(6, 16, 16, 3)
    config = OptimConfig(distill_temperature=2.0, distill_weight=0.3)
    hard, soft = functional.cross_entropy(student, targets), distillation_loss(student, answers, 2.0)
    found = distilled(teacher_of(answers), None, config)(images, targets, student)
    torch.testing.assert_close(found, 0.7 * hard + 0.3 * soft)
    found.backward()
    assert student.grad is not None and student.grad.abs().sum() > 0
    weighted = build_loss(config, np.array([1.0, 2.0, 3.0]))
    assert weighted is not None
    found = distilled(teacher_of(answers), weighted, config)(images, targets, student)
    torch.testing.assert_close(found, 0.7 * weighted(targets, student) + 0.3 * soft)


def test_images_are_resized_for_a_teacher_of_another_size() -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8))
    assert resized(images, 16) is images
    for size in (8, 24):
        made = resized(images, size)
        assert made.shape == (2, size, size, 3) and made.dtype == torch.float32
        assert float(made.min()) >= 0 and float(made.max()) <= 255
    halves = images.float().reshape(2, 8, 2, 8, 2, 3).mean(dim=(2, 4))
    assert (resized(images, 8) - halves).abs().mean() < 20  # a wider filter than the mean of four


def test_a_teacher_answers_in_the_order_of_the_students_classes(trained_run: Run) -> None:
    loaded = load(trained_run.model_path)
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8))
    order = ("top", "centre", "left")
    found = open_teacher(str(trained_run.directory), order, "cpu", Path(), None)
    with torch.no_grad():
        expected = loaded.forward(images)[:, [loaded.class_names.index(name) for name in order]]
    torch.testing.assert_close(found.logits(images), expected)
    assert not found.logits(images).requires_grad


def test_what_cannot_teach_is_refused_in_one_line(trained_run: Run, tmp_path: Path) -> None:
    run = str(trained_run.directory)
    with pytest.raises(DataError, match="do not know the same classes; only one knows: bird, top"):
        open_teacher(run, ("centre", "left", "bird"), "cpu", Path(), None)
    with pytest.raises(UsageError, match="holds other weights than when the run began"):
        open_teacher(run, NAMES, "cpu", Path(), "0" * 64)
    with pytest.raises(UsageError, match=r"is no file; allowed: a model file \(\.keras\) or a run folder"):
        open_teacher("models:/photos/1", NAMES, "cpu", Path(), None)
    with pytest.raises(UsageError, match="is an ONNX file"):
        open_teacher(str(tmp_path / "m.onnx"), NAMES, "cpu", Path(), None)
    with pytest.raises(ConfigError, match=r"needs the network that learns from it; set model\.name"):
        train(Config.load(data="digits", **{"train.teacher": run, "tracking.uri": "none"}))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"train.teacher": "m.keras", "model": "resnet50", "model.unfreeze_after": 1}, "where all layers are trained"),
        ({"train.teacher": "m.keras", "model": "resnet50", "minutes": 3}, "allowed with train.epochs only"),
        ({"optim.distill_weight": 0.5}, "optim.distill_weight: received 0.5, allowed: 0.9, because there is no train"),
        ({"optim.distill_temperature": 2}, "optim.distill_temperature: received 2, allowed: 4, because there is no"),
    ],
)
def test_what_does_not_go_together_is_told(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.load(**values)
    assert any(words in problem for problem in caught.value.problems)


@pytest.mark.full
def test_a_student_follows_its_teacher_and_not_wrong_labels(
    trained_run: Run, images: Path, configure: Configure, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong"
    for split in ("train", "val", "test"):
        for name, given in zip(NAMES, NAMES[1:] + NAMES[:1], strict=True):
            shutil.copytree(images / split / given, wrong / split / name)
    options = {"data": str(wrong), "epochs": 4, "lr": 5e-3, "train.monitor": "val_loss"}
    taught = {"train.teacher": str(trained_run.directory), "optim.distill_weight": 1.0}
    learned = configure(**options, **taught, output_dir=str(tmp_path / "a"))
    by_labels = train(configure(**options, output_dir=str(tmp_path / "b")))
    by_teacher = train(learned)
    assert by_labels.metrics["accuracy"] > 0.8
    assert by_teacher.metrics["accuracy"] < 0.3, "the teacher knows the right classes, and the labels are all wrong"


@pytest.mark.full
def test_a_taught_run_goes_on_to_the_bit_with_the_same_teacher_alone(
    trained_run: Run, undisturbed: Run, configure: Configure, tmp_path: Path
) -> None:
    teacher = tmp_path / "teacher.keras"
    shutil.copy(trained_run.model_path, teacher)
    common = {"train.checkpoint_seconds": 0, "train.teacher": str(teacher), "augment.flip": "random"}
    whole = train(configure(output_dir=str(tmp_path / "whole"), **common))
    with stopped_at(1, 3, "kill"), pytest.raises(SystemExit):
        train(configure(output_dir=str(tmp_path / "cut"), **common))
    disturb()
    shutil.copy(undisturbed.model_path, teacher)
    with pytest.raises(UsageError, match="holds other weights than when the run began"):
        train(resume=tmp_path / "cut")
    shutil.copy(trained_run.model_path, teacher)
    assert_same(whole, train(resume=tmp_path / "cut"))
