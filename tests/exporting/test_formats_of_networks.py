"""A network of each family in the formats beside ONNX, opened again by the rules for strangers' files."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from small_networks import FAMILIES, small_networks

from kcv.config import ModelConfig
from kcv.exporting import formats
from kcv.exporting.formats import Source
from kcv.inference.exported import ExportedInfo
from kcv.models import registry

SIZE = 64
INFO = ExportedInfo(("cat", "dog", "ship"), SIZE, "crop", "float32", "net", "photos", "abc", "0", temperature=1.7)

pytestmark = [pytest.mark.full, pytest.mark.long]


@pytest.fixture(scope="module", params=("custom_cnn", *FAMILIES))
def network(request: pytest.FixtureRequest) -> keras.Model:
    keras.utils.set_random_seed(0)
    pixels = np.random.default_rng(0).integers(0, 256, (8, SIZE, SIZE, 3), dtype=np.uint8)
    with small_networks():
        config = ModelConfig.model_validate({"name": request.param, "weights": "none"})
        return registry.build(config, SIZE, len(INFO.class_names), pixels)


@pytest.mark.parametrize(("kind", "module"), [("openvino", "openvino"), ("torch", "torch"), ("litert", "litert_torch")])
@pytest.mark.parametrize("tta", [None, "flip"])
def test_a_format_gives_the_logits_of_the_network(
    network: keras.Model, tmp_path: Path, kind: str, module: str, tta: str | None
) -> None:
    pytest.importorskip(module, reason=f"needs the package of --to={kind}")
    if tta is not None and kind == "litert":
        pytest.skip("takes a minute for each network, and its averages are those of torch")
    info = ExportedInfo(**{**vars(INFO), "tta": tta})
    path = tmp_path / f"m{formats.find(kind).suffix}"
    formats.find(kind).write(Source(network, info, 20), path)
    batch = np.random.default_rng(1).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)
    views = [batch, batch[:, :, ::-1]] if tta else [batch]
    expected = np.mean([network(view.copy(), training=False).detach().numpy() for view in views], axis=0)
    logits, probabilities = formats.find(kind).open(path).compute(batch)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * max(1.0, np.abs(expected).max()))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
