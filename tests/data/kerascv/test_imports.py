"""What is promised where the extra is not installed; and in what order imports come where it is."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from warm import PATIENCE

from kcv.cli import main
from kcv.data.augment import keras_cv

ROOT = Path(__file__).resolve().parents[3]
with_extra = pytest.mark.skipif(not keras_cv.installed(), reason="needs the extra kcv[kerascv]")
with_triton = pytest.mark.skipif(find_spec("triton") is None, reason="torch came without triton: nothing can clash")


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)


def test_without_the_extra_one_line_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(keras_cv, "find_spec", lambda name: None)
    folder = tmp_path / "run"
    words = ["--augment.library=keras_cv", "--augment.layers=[CutMix]", "--tracking=none", f"--output_dir={folder}"]
    assert main(["train", "--data=digits", *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "augment.library=keras_cv needs the extra: pip install 'kcv[kerascv]'" in lines[-1]
    assert not folder.exists()


@pytest.mark.long
def test_training_without_it_imports_none_of_it() -> None:
    code = """
import sys, numpy as np
import kcv, keras
from kcv.data.augment import tf_pipeline
from kcv.data.batches import TrainingBatches
assert not {"tensorflow", "keras_cv"} & sys.modules.keys()
"""
    done = run(code)
    assert done.returncode == 0, done.stderr


@with_extra
def test_keras_comes_before_tensorflow_even_after_torch() -> None:
    code = """
import sys, kcv, torch
from kcv.data.augment.keras_cv import open_kerascv
library = open_kerascv()
order = list(sys.modules)
assert order.index("torch") < order.index("keras") < order.index("tensorflow") < order.index("keras_cv")
import keras
assert keras.config.backend() == "torch"
assert library.tf.config.get_visible_devices("GPU") == []
print("lived")
"""
    done = run(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "lived\n", "")


@with_extra
@with_triton
def test_torch_then_tensorflow_still_ends_the_process() -> None:
    done = run("import kcv, torch, tensorflow")
    assert done.returncode < 0, "the order is harmless now: the guard and decision 014 can go"
    assert "LLVM ERROR" in done.stderr


@with_extra
@with_triton
def test_an_order_that_would_end_the_process_is_refused_in_one_line() -> None:
    code = """
import os
os.environ["KERAS_BACKEND"], os.environ["TF_CPP_MIN_LOG_LEVEL"] = "tensorflow", "3"
import tensorflow
from kcv.data.augment.keras_cv import open_kerascv
from kcv.errors import ConfigError
try:
    open_kerascv()
except ConfigError as error:
    print(error)
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert "tensorflow was imported before Keras' torch backend" in line


@with_extra
def test_importing_changes_no_random_numbers() -> None:
    code = """
import random, kcv, keras, numpy as np, torch
def states():
    return repr((random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()))
before = states()
from kcv.data.augment.tf_pipeline import Pipeline
Pipeline([{"name": "RandAugment"}, {"name": "CutMix"}], 16, 3, "cpu")
assert states() == before
"""
    done = run(code)
    assert (done.returncode, done.stderr) == (0, "")
