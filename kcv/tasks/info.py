"""Describing a model file, without Keras or torch.

model.keras -> kcv.json in it; model.onnx -> its metadata; model.xml, model.pt2 ... -> the same texts in them
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kcv.inference.locating import model_file

if TYPE_CHECKING:
    from kcv.artifact import ArtifactInfo
    from kcv.inference.exported import ExportedInfo


@dataclass(frozen=True)
class ModelCard:
    """What is in a model file.

    Attributes:
        path: of the file.
        bytes: its size.
        content: its description of itself; of another kind for exported files than for `.keras` files.
    """

    path: Path
    bytes: int
    content: ArtifactInfo | ExportedInfo

    def to_dict(self) -> dict[str, Any]:
        """Returns all of it as plain values."""
        from kcv.artifact import ArtifactInfo

        content = self.content
        if isinstance(content, ArtifactInfo):
            values = content.model_dump(mode="json")
        else:
            values = asdict(content)
            if content.reference is not None:
                values["reference"] = content.reference.model_dump(mode="json")
            if content.sets is not None:
                values["sets"] = content.sets.model_dump(mode="json")
            values["tta_calibrations"] = content.tta_calibrations.model_dump(mode="json")
        return {"path": str(self.path), "bytes": self.bytes, **values}


def info(model: str | Path) -> ModelCard:
    """Show what is in a model file.

    Args:
        model: a model file (model.keras, model.onnx), or the run folder that holds it. Also another exported file
            (model.xml, model.pt2 ...), and a model in MLflow: models:/NAME/VERSION, models:/NAME@ALIAS or
            runs:/RUN_ID/PATH; or in the Hugging Face Hub: hf://OWNER/NAME[@COMMIT].

    Raises:
        ArtifactError: the file is missing, damaged or unsafe.
        TrackingError: the MLflow store cannot be reached.
        HubError: the Hugging Face Hub cannot be reached, or refuses.

    Example:
        $ kcv info runs/mine/model.keras
        $ kcv info models:/photos@champion
    """
    from kcv.inference.runtimes import runtime_of

    path = model_file(model)
    content: ArtifactInfo | ExportedInfo
    runtime = runtime_of(path)
    if runtime is not None:
        content = runtime.describe(path)
    else:
        from kcv.artifact import read_info

        content = read_info(path)
    return ModelCard(path, path.stat().st_size, content)
