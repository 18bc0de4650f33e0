"""OpenVINO's intermediate representation: the graph in `.xml`, its weights in `.bin` beside it.

OpenVINO's reader of ONNX makes it from the file that `kcv export` writes by default. The weights stay in float32:
halved, as OpenVINO saves them by default, they would not pass the parity check.

Source: OpenVINO documentation, "Model Preparation", openvino.save_model and Model.set_rt_info.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kcv.common.files import temporary_folder
from kcv.errors import ExportError, first_line
from kcv.exporting.formats import Format, Source, register, require_package
from kcv.exporting.formats.onnx import write as write_onnx

if TYPE_CHECKING:
    from kcv.inference.openvino_model import OpenVinoModel


def _require() -> None:
    require_package("openvino", "openvino", "kcv[openvino]")


def _write(source: Source, path: Path) -> Sequence[str]:
    import openvino
    import openvino.passes

    from kcv.inference.openvino_graph import ENTRY, WEIGHTS_DIGEST, WEIGHTS_SUFFIX

    with temporary_folder() as folder:
        graph = folder / "model.onnx"
        write_onnx(source, graph)
        try:
            # openvino.convert_model would do the same, and send statistics of its use.
            model = openvino.Core().read_model(graph)
            folding = openvino.passes.Manager()
            folding.register_pass(openvino.passes.ConstantFolding())
            folding.run_passes(model)  # leaves no computation of shapes, which kcv's reader does not follow
            weights = path.with_suffix(WEIGHTS_SUFFIX)
            openvino.serialize(model, str(folder / "plain.xml"), str(weights))
            texts = source.info.to_metadata()
            texts[WEIGHTS_DIGEST] = hashlib.sha256(weights.read_bytes()).hexdigest()
            for key, text in texts.items():
                model.set_rt_info(text, [ENTRY, key])
            openvino.serialize(model, str(path), str(weights))
        except RuntimeError as error:  # OpenVINO raises nothing narrower
            raise ExportError(f"{source.info.model_name} has no form in OpenVINO: {first_line(error)}") from error
    return (WEIGHTS_SUFFIX,)


def _open(path: Path) -> OpenVinoModel:
    from kcv.inference.openvino_model import OpenVinoModel

    return OpenVinoModel(path, device="cpu")


register(Format("openvino", "OpenVINO", ".xml", _write, _open, _require, options=("opset",)))
