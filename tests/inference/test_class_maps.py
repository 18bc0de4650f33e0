"""Heat maps without torch: those of a file made by hand, and files whose outputs do not fit together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx_by_hand import SIZE
from onnx_with_maps import KERNEL, with_heatmaps

from kcv.errors import ArtifactError
from kcv.inference.class_maps import class_maps
from kcv.inference.onnx_model import OnnxModel


@pytest.fixture
def model(tmp_path: Path) -> OnnxModel:
    """A model with heat maps."""
    path = tmp_path / "maps.onnx"
    path.write_bytes(with_heatmaps())
    return OnnxModel(path)


def test_a_map_shows_where_the_features_of_a_class_are(tmp_path: Path) -> None:
    path = tmp_path / "maps.onnx"
    path.write_bytes(with_heatmaps(np.eye(3, dtype=np.float32)))
    pixels = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    pixels[0, :4, 8:, 1] = 200  # green, at the upper right
    found = OnnxModel(path).explain(pixels)
    assert found.classes.tolist() == [1]
    assert found.probabilities[0].argmax() == 1
    (heat,) = found.maps
    assert heat.shape == (SIZE, SIZE) and heat.dtype == np.float32
    assert (heat.min(), heat.max()) == (0, 1)
    assert heat[0, 12] == 1 and not heat[8:].any()
    assert not OnnxModel(path).explain(pixels, position=0).maps.any()  # no red anywhere: a flat map


def test_maps_are_those_of_gradcam(model: OnnxModel) -> None:
    """The gradient through pooling and the dense layer, by torch, against the product of `class_maps`."""
    torch = pytest.importorskip("torch")
    from kcv.saliency.methods import gradcam, heatmaps

    pixels = np.random.default_rng(2).integers(0, 256, (6, SIZE, SIZE, 3), dtype=np.uint8)
    for position in (None, 2):
        found = model.explain(pixels, position)
        features = torch.nn.functional.avg_pool2d(torch.from_numpy(pixels).permute(0, 3, 1, 2).float(), 4)
        features.requires_grad_(True)
        # Max pooling in between makes no difference.
        pooled = torch.nn.functional.max_pool2d(features, 1).mean((2, 3))
        logits = pooled @ torch.from_numpy(KERNEL)
        (gradients,) = torch.autograd.grad(logits[range(6), found.classes].sum(), features)
        wanted = heatmaps(gradcam(features.detach(), gradients), (SIZE, SIZE)).numpy()
        np.testing.assert_allclose(found.maps, wanted, atol=1e-5)


@pytest.mark.parametrize(("cells", "size"), [((1, 1), 8), ((2, 3), 7), ((7, 7), 224), ((16, 16), 16), ((9, 9), 4)])
def test_resizing_is_torchs(cells: tuple[int, int], size: int) -> None:
    torch = pytest.importorskip("torch")
    from kcv.saliency.methods import heatmaps

    raw = np.random.default_rng(0).normal(size=(3, 1, *cells)).astype(np.float32)
    found = class_maps(raw, np.ones((1, 1), np.float32), np.zeros(3, np.int64), size)
    np.testing.assert_allclose(found, heatmaps(torch.from_numpy(raw[:, 0]), (size, size)).numpy(), atol=1e-5)


def test_features_that_are_no_numbers_give_flat_maps() -> None:
    raw = np.full((1, 1, 2, 2), np.nan, np.float32)
    assert not class_maps(raw, np.ones((1, 1), np.float32), np.zeros(1, np.int64), 4).any()


@pytest.mark.parametrize(
    "changes",
    [{"left_out": "features"}, {"left_out": "class_weights"}, {"weights_shape": [3, 4]}, {"weights_shape": [4, 3]}],
)
def test_outputs_that_do_not_fit_together_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / "m.onnx"
    try:
        path.write_bytes(with_heatmaps(**changes))
    except onnx.checker.ValidationError:
        pytest.fail("the file must be a sound graph")
    with pytest.raises(ArtifactError, match="its outputs for heat maps are not what its description says"):
        OnnxModel(path)
