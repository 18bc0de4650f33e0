"""A model of the user's own by name: trained, kept and resumed like any other; code that nobody chose is not run."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from interrupted import assert_same, disturb, stopped_at

import kcv
from kcv.artifact import read_info
from kcv.cli import main
from kcv.config import Config
from kcv.errors import ArtifactError, ConfigError, KcvError, UsageError
from kcv.models.own import OwnName
from kcv.training import own_function, own_weights
from kcv.training.resume.record import Record

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "own_model.md"
CANARY = "import pathlib; pathlib.Path('canary').touch()\n"

SMALL = """
import keras
from keras import layers

def build(image_size, num_classes):
    inputs = keras.Input((image_size, image_size, 3))
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.Conv2D(8, 3, strides=2)(x)
    x = layers.BatchNormalization()(x)
    x = layers.Dropout(0.1)(layers.GlobalAveragePooling2D()(layers.ReLU()(x)))
    return keras.Model(inputs, layers.Dense(num_classes, dtype="float32")(x), name="small")
"""


def example() -> str:
    """The file that the guide shows."""
    (found,) = re.findall(r"```python\n# my_net\.py\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    return str(found)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def make(images: Path, tmp_path: Path) -> Callable[..., Config]:
    """Returns a function that makes a configuration for a model of one's own, net.py."""

    def make(**options: Any) -> Config:
        values = {"model": "net.py:build", "data": str(images), "epochs": 2, "batch_size": 16, "lr": 3e-2,
                  "tracking": "none", "device": "cpu", "precision": "float32", "output_dir": str(tmp_path / "run"),
                  "train.plots": False, "train.checkpoint_seconds": 0}  # fmt: skip
        return Config.load(**{**values, **options})

    return make


def net(text: str = SMALL, name: str = "net.py") -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.full
def test_the_example_of_the_guide_is_trained_measured_and_explained(
    make: Callable[..., Config], images: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    path = net(example(), "nets/my_net.py")
    run = kcv.train(make(model="nets/my_net.py:build", epochs=3))
    assert "runs through Keras" not in caplog.text and "called through Keras" not in caplog.text  # it is native
    info = read_info(run.model_path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert info.model_source is not None
    assert (info.model_source.name, info.model_source.sha256) == ("nets/my_net.py:build", digest)
    assert info.model_name == "my_net (own)"
    path.unlink()  # all that follows needs the model file alone
    assert kcv.evaluate(run.model_path, plots=False).metrics == run.metrics
    (found,) = kcv.explain(images / "test" / "left" / "000.png", run.model_path, output="maps")
    assert found["label"] and not found["error"]
    assert main(["info", str(run.directory)]) == 0
    assert f"nets/my_net.py:build (SHA-256 {digest[:12]})" in capsys.readouterr().out
    card, page = ((run.directory / name).read_text() for name in ("MODEL_CARD.md", "report.html"))
    assert digest in card and "nets/my_net.py:build" in page


def test_a_run_goes_on_to_the_bit_where_this_user_began_it(make: Callable[..., Config], tmp_path: Path) -> None:
    net()
    whole = kcv.train(make(output_dir=str(tmp_path / "whole")))
    with stopped_at(1, 2), pytest.raises(KeyboardInterrupt):
        kcv.train(make())
    disturb()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(elsewhere)  # the path in the folder starts from where the run began
        assert_same(whole, kcv.train(resume=tmp_path / "run"))


def test_a_file_that_has_changed_or_moved(make: Callable[..., Config], tmp_path: Path) -> None:
    net()
    with stopped_at(1, 2), pytest.raises(KeyboardInterrupt):
        kcv.train(make())
    net(CANARY + SMALL)
    for config in (None, make()):
        with pytest.raises(
            UsageError, match=r"--resume: net.py has changed since the run began \(SHA-256 [0-9a-f]{12}"
        ):
            kcv.train(config, resume=tmp_path / "run")
    assert not Path("canary").exists()  # it was not run
    Path("net.py").unlink()
    with pytest.raises(UsageError, match=r"model.name: .*net.py: no such file"):
        kcv.train(resume=tmp_path / "run")
    net(name="moved/other.py")
    with pytest.raises(ConfigError, match=r"model.name: received 'moved/other.py:build', but the run began with"):
        kcv.train(make(model="moved/other.py:build"), resume=tmp_path / "run")
    net(name="moved/net.py")
    assert kcv.train(make(model="moved/net.py:build"), resume=tmp_path / "run").best_epoch


def test_a_function_that_returns_another_model_is_refused(make: Callable[..., Config], tmp_path: Path) -> None:
    text = SMALL.replace("Conv2D(8,", "Conv2D(int(pathlib.Path('width').read_text()),")
    net(f"import pathlib{text}")
    Path("width").write_text("8")
    with stopped_at(1, 2), pytest.raises(KeyboardInterrupt):
        kcv.train(make())
    Path("width").write_text("9")
    with pytest.raises(UsageError, match=r"net.py:build returns a model of another structure than when the run began"):
        kcv.train(resume=tmp_path / "run")


def test_a_strangers_run_imports_nothing_until_its_model_is_named(
    make: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    net(CANARY + SMALL)
    with stopped_at(1, 2), pytest.raises(KeyboardInterrupt):
        kcv.train(make())
    Path("canary").unlink()
    monkeypatch.setenv("KCV_CACHE_DIR", str(tmp_path / "another user"))
    for call in (lambda: main(["train", f"--resume={tmp_path / 'run'}"]),
                 lambda: main(["train", f"--resume={tmp_path / 'run'}", "--train.plots=false"])):  # fmt: skip
        assert call() == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "names the code net.py:build, and nothing shows that you began it" in error
        assert "--model=FILE.py:FUNCTION" in error
    for left_open in (make(model="auto"), make(model="auto", **{"data.class_weights": "none"})):
        with pytest.raises(UsageError, match=r"names the code net\.py:build, and nothing shows that you began it"):
            kcv.train(left_open, resume=tmp_path / "run")  # it takes the model's name from the folder
    assert main(["info", str(tmp_path / "run")]) == main(["report", str(tmp_path / "run")]) == 0
    assert main(["evaluate", str(tmp_path / "run"), "--plots=false"]) == 0
    assert not Path("canary").exists()
    words = ["train", f"--resume={tmp_path / 'run'}", "--model=net.py:build"]
    assert main(words) == 0
    assert Path("canary").exists()


def test_a_record_that_was_changed_opens_no_code(make: Callable[..., Config], tmp_path: Path) -> None:
    """Neither another hash nor another path is followed: the signature is of the record as it was."""
    net()
    with stopped_at(1, 2), pytest.raises(KeyboardInterrupt):
        kcv.train(make())
    net(CANARY + SMALL)
    path = tmp_path / "run" / "resume" / "run.json"
    values = json.loads(path.read_text())
    values["own_source"]["sha256"] = hashlib.sha256(Path("net.py").read_bytes()).hexdigest()
    changed = Record(**{key: value for key, value in values.items() if key not in ("sha256", "signature")})
    from kcv.common import seal

    path.write_text(json.dumps({**values, "sha256": seal.checksum(changed._content())}))
    with pytest.raises(UsageError, match=r"names the code net\.py:build, and nothing shows that you began it"):
        kcv.train(resume=tmp_path / "run")
    assert not Path("canary").exists()


def test_a_module_is_imported_from_where_modules_are(
    make: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "installed" / "kcv_test_nets"
    net(SMALL, str(package / "small.py"))
    (package / "__init__.py").touch()
    monkeypatch.setattr(sys, "path", [*sys.path, str(package.parent)])
    run = kcv.train(make(model="kcv_test_nets.small:build", epochs=1))
    source = read_info(run.model_path).model_source
    assert source is not None and source.sha256 == hashlib.sha256((package / "small.py").read_bytes()).hexdigest()


def test_options_of_kcvs_networks_are_refused_with_all_other_problems() -> None:
    options = {"model.width": 0.5, "model.dropout": 0.1, "model.mode": "feature_extraction", "model.unfreeze_after": 1,
               "model.freeze_batch_norm": True, "model.feature_views": 2, "model.weights": "imagenet",
               "optim.layer_decay": 0.5, "optim.backbone_lr_scale": 0.1}  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        Config.load(model="net.py:build", **options)
    assert sorted(line.partition(":")[0] for line in caught.value.problems) == sorted(options)
    assert Config.load(model="net.py:build", **{"model.weights": "none"}).model.weights == "none"


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("net.py:build", ("net.py", "build", True)),
        ("/a b/ü.py:build", ("/a b/ü.py", "build", True)),
        ("C:\\nets\\net.py:build", ("C:\\nets\\net.py", "build", True)),
        ("package.module:build", ("package.module", "build", False)),
        ("net.py", None), ("net.py:", None), ("net.py:a.b", None), (":build", None), ("a..b:c", None),
        ("net.py:bu ild", None), ("net\n.py:build", None), ("a-b:c", None), (f"{'a' * 1000}:b", None), (3, None),
    ],
)  # fmt: skip
def test_names_are_files_or_modules_and_functions(name: Any, parts: tuple[str, str, bool] | None) -> None:
    found = OwnName.find(name)
    assert (found and (found.place, found.function, found.is_file)) == parts


def test_a_model_file_says_no_odd_source(make: Callable[..., Config]) -> None:
    net()
    run = kcv.train(make(epochs=1))
    from kcv.artifact.info import parse_info

    values = read_info(run.model_path).model_dump(mode="json")
    for source in ({"name": "a:b", "sha256": "x"}, {"name": "a\x1b[2J:b", "sha256": "0" * 64}, "os:system", 3):
        with pytest.raises(ArtifactError, match="its description is damaged"):
            parse_info(json.dumps({**values, "model_source": source}).encode(), run.model_path)
    older = {key: value for key, value in values.items() if key != "model_source"}
    assert parse_info(json.dumps(older).encode(), run.model_path).model_source is None


@pytest.mark.full
def test_weights_of_an_earlier_run_of_the_same_model_are_taken(make: Callable[..., Config], tmp_path: Path) -> None:
    net()
    first = kcv.train(make(output_dir=str(tmp_path / "first")))
    function = own_function.load(OwnName("net.py", "build", True))
    model = function.build(16, 3, "float32")
    pretrained = own_weights.read(str(first.model_path))
    assert pretrained is not None
    own_weights.assign(pretrained, model, ("centre", "left", "top"), "net.py:build")
    trained = kcv.load_model(first.model_path).keras_model.get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), trained, strict=True))
    other = function.build(16, 2, "float32")
    fresh = other.get_weights()
    own_weights.assign(pretrained, other, ("yes", "no"), "net.py:build")
    assert all(np.array_equal(a, b) for a, b in zip(other.get_weights()[:-2], trained[:-2], strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(other.get_weights()[-2:], fresh[-2:], strict=True))
    kcv.train(make(output_dir=str(tmp_path / "second"), **{"model.weights": str(first.model_path)}))
    environment = json.loads((tmp_path / "second" / "environment.json").read_text())
    assert environment["weights"] == str(first.model_path)


IMPORTS = "import keras\nfrom keras import layers\n"
HEAD = f"{IMPORTS}\ndef build(image_size, num_classes):\n    "
INPUT = "x = i = keras.Input((image_size, image_size, 3)); "
END = "; return keras.Model(i, layers.Dense(num_classes)(layers.Flatten()(x)))"
OWN_LAYER = """
class Mine(layers.Layer):
    def call(self, x):
        return x
"""
NO_CONFIG = """
class Mine(layers.Layer):
    def __init__(self, n):
        super().__init__()
    def call(self, x):
        return x
"""
CUT = "x = layers.Identity(dtype='int32')(layers.Conv2D(2, 3)(x)); x = layers.Rescaling(1.0)(x)"

BAD: dict[str, tuple[str | None, dict[str, Any], str]] = {
    "no such file": (None, {}, "model.name: net.py: no such file"),
    "a similar file": (None, {"model": "nett.py:build"}, "model.name: nett.py: no such file. Did you mean 'net2.py'?"),
    "a folder": (None, {"model": "folder.py:build"}, "model.name: folder.py: is"),
    "not Python": ("def build(:\n", {}, "net.py raised SyntaxError: invalid syntax (line 1)"),
    "not text": ("\0", {}, "model.name: net.py raised "),
    "an error at the top": ("x = 1\nraise ValueError('odd\\nthing')", {}, "net.py raised ValueError: odd (line 2)"),
    "an exit at the top": ("import sys\nsys.exit(3)", {}, "net.py raised SystemExit: 3 (line 2)"),
    "an import that is not there": ("import no_such_thing", {}, "raised ModuleNotFoundError: No module named 'no_such"),
    "an import from beside it": ("import beside", {}, "what lies beside a file is not searched: PYTHONPATH=. would be"),
    "no such function": ("def build_it(): pass", {}, "net.py: has no 'build'. Did you mean 'build_it'?"),
    "no function": ("build = 3", {}, "net.py:build: is a int, allowed: a function"),
    "other arguments": ("def build(size, classes): pass", {}, "takes (size, classes), but is called with image_size="),
    "an argument too many": ("def build(image_size, num_classes, width): pass", {}, "takes (image_size, num_classes, "),
    "an error inside": (HEAD + "return 1 / 0", {}, "and num_classes=3, raised ZeroDivisionError: division by zero (li"),
    "an error of Keras": (HEAD + INPUT + "x = layers.Conv2D(2, 99)(x)" + END, {}, "raised ValueError: "),
    "nothing returned": (HEAD + "pass", {}, "model: received a NoneType, allowed: a functional keras.Model"),
    "a class": (HEAD + "return keras.Model", {}, "model: received a type, allowed: a functional keras.Model"),
    "a sequence": (
        HEAD + "return keras.Sequential([layers.Input((16, 16, 3)), layers.Flatten(), layers.Dense(3)])", {},
        "model: is a Sequential, allowed: a functional keras.Model; keras.Model(model.inputs, model.outputs) is one",
    ),
    "compiled": (
        HEAD + INPUT + "m = keras.Model(i, layers.Dense(3)(layers.Flatten()(x))); m.compile('sgd'); return m", {},
        "model: is compiled, allowed: one that is not",
    ),
    "another size": (HEAD + "image_size = 20; " + INPUT + "pass" + END, {},
                     "data.image_size: received 16, but net.py:build returns a model for 20; set it to that."),
    "other classes": (HEAD + INPUT + "num_classes = 5" + END, {}, "num_classes=3, returned one of 5 logits"),
    "grey": (HEAD + "x = i = keras.Input((image_size, image_size, 1))" + END, {}, "model: maps (None, 16, 16, 1) to"),
    "probabilities": (HEAD + INPUT + "x = layers.Flatten()(x); return keras.Model(i, layers.Dense(3, 'softmax')(x))",
                      {}, "gives probabilities, allowed: logits (no softmax)"),
    "other precision": (HEAD + "keras.config.set_dtype_policy('mixed_bfloat16'); " + INPUT
                        + "return keras.Model(i, layers.Dense(3, dtype='float32')(layers.Flatten()(x)))", {},
                        "computes in mixed_bfloat16, but the run in float32; leave the dtype policy to kcv"),
    "half logits": (HEAD + INPUT + "return keras.Model(i, layers.Dense(3, dtype='float16')(layers.Flatten()(x)))", {},
                    "model: gives logits in float16; build its last layer with dtype='float32'"),
    "frozen": (HEAD + INPUT + "m = keras.Model(i, layers.Dense(3)(layers.Flatten()(x))); m.trainable = False; return m",
               {}, "model: has no trainable weights"),
    "cut off": (HEAD + INPUT + CUT + END, {}, "gets no gradient"),
    "a Lambda": (HEAD + INPUT + "x = layers.Lambda(lambda y: y / 255, name='scale')(x)" + END, {},
                 "scale is a Lambda: use layers without code, such as Rescaling"),
    "an operation": (HEAD + INPUT + "x = x / 255" + END, {}, "is an operation of keras.ops: use a layer, such as Add"),
    "attention": (HEAD + INPUT + "x = layers.Attention(name='look')([x, x])" + END, {},
                  "look is of the class Attention: use the layers that"),
    "an own layer": (OWN_LAYER.join((IMPORTS, HEAD)) + INPUT + "x = Mine(name='m')(x)" + END, {},
                     "m is a class of your own: build it of the layers that docs/guides/own_model.md lists"),
    "an own layer without a description": (
        NO_CONFIG.join((IMPORTS, HEAD)) + INPUT + "x = Mine(3)(x)" + END, {},
        "is a class of your own: build it"),
    "no module": (None, {"model": "no_such_package.net:build"}, "model.name: there is no module 'no_such_package'"),
    "a module of the working folder": (
        SMALL, {"model": "net:build"},
        "there is no module 'net'; the working folder is not searched: name its file, net.py:build"),
    "a module without a file": (None, {"model": "itertools:chain"}, "itertools: has no Python file"),
    "weights of other programs": (SMALL, {"model.weights": "w.h5"}, "weights of a model of your own are read from"),
    "weights that are not there": (SMALL, {"model.weights": "no.keras"}, "model.weights: no.keras: no such file"),
    "weights of another model": (SMALL, {"model.weights": "TRAINED"}, "holds another model than net.py:build returns"),
    "a class that is not there": (SMALL, {"data.class_weights": "{lefft: 2}"},
                                  "data.class_weights: there is no class 'lefft', allowed: 'centre', 'left', 'top'."),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_used_is_one_line_and_leaves_no_run(
    kind: str, make: Callable[..., Config], trained_run: Any, tmp_path: Path
) -> None:
    text, options, message = BAD[kind]
    if text is not None:
        net(text)
    net(SMALL, "net2.py")
    net("", "beside.py")
    Path("folder.py").mkdir()
    Path("w.h5").touch()
    options = {key: str(trained_run.model_path) if value == "TRAINED" else value for key, value in options.items()}
    before = set(sys.modules)
    with pytest.raises((UsageError, ConfigError, KcvError)) as caught:
        kcv.train(make(**options))
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "run").exists()
    assert not any("own_model" in name for name in set(sys.modules) - before) or text is not None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model=resnet51"], "model.name: received 'resnet51', allowed: 'auto', a name that `kcv models` lists"),
        (["--model=resnet51"], "Did you mean 'resnet50'?"),
        (["--model=resnet51"], "FILE.py:FUNCTION or MODULE:FUNCTION for a model of your own"),
        (["--model=net.py"], "model.name: received 'net.py', allowed:"),
        (["--data.class_weights=balance"], "Did you mean 'balanced'?"),
        (["--data.class_weights={a: 0}"], "weights greater than 0"),
        (["--data.class_weights={a: x}"], "data.class_weights: received '{a: x}', allowed:"),
        (["--data.class_weights={a: .inf}"], "data.class_weights: received"),
        (["--data.class_weights={}"], "data.class_weights: received '{}'"),
        (["--data.class_weights={1: 2, '1': 3}"], "data.class_weights: received"),
        (["--data.class_weights={a: 1"], "data.class_weights: received '{a: 1'"),
        (["--data.class_weights=2"], "data.class_weights: received 2, allowed:"),
        (["--data.sampling=sqr"], "data.sampling: received 'sqr', allowed: 'none', 'balanced', 'sqrt'. Did you mean"),
        (["--data.sampling=balanced", "--data.class_weights=sqrt"], "both do the same; rare classes would count twice"),
        (["--optim.loss=focal_loss"], "optim.loss: received 'focal_loss', allowed: 'cross_entropy', 'focal'."),
        (["--optim.focal_gamma=1"], "optim.focal_gamma: received 1, allowed: 2, because optim.loss is cross_entropy"),
        (["--optim.loss=focal", "--optim.focal_gamma=-1"], "optim.focal_gamma: received -1, allowed: a number from 0"),
    ],
)
def test_bad_values_are_one_line_on_the_command_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--data=digits", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not Path("runs").exists()
