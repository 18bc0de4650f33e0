"""A classifier in OpenVINO's format, run by OpenVINO on the CPU, without Keras or torch."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kcv.common.cores import usable_cores
from kcv.common.untrusted import refusing
from kcv.errors import ArtifactError, DeviceError, UsageError
from kcv.inference import onnx_graph
from kcv.inference.exported import INPUT, LOGITS, PROBABILITIES, ExportedInfo, ExportedModel
from kcv.inference.openvino_graph import Checked, read

_DEVICES: Final = ("auto", "cpu")


def describe(path: Path) -> ExportedInfo:
    """Returns the description in a file, after the same checks as for running it; OpenVINO is not needed.

    Raises:
        ArtifactError: as for `OpenVinoModel`.
    """
    return _Unopened(path).info


class _Unopened(ExportedModel):
    """A pair of files that has been checked, and not been opened with OpenVINO."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._checked: Checked | None = read(self.path)
        self.info = ExportedInfo.from_metadata(self._checked.graph.metadata, str(path))
        self._check_interface(self._checked.graph)
        with refusing(self.path, ArtifactError, "cannot be opened as an OpenVINO model"):
            onnx_graph.check(self._checked.graph, self.image_size**2)

    def _computed(self, batch: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        raise NotImplementedError


class OpenVinoModel(_Unopened):
    """A classifier that kcv exported to OpenVINO.

    Args:
        path: the `.xml` file; the `.bin` file with the weights is beside it.
        device: `auto` or `cpu`.
        threads: threads per batch; None for one per core. With 1, several batches can be computed at the same time,
            each on a core of its own.

    Raises:
        ArtifactError: a file is missing, damaged, or was not exported by kcv.
        DeviceError: the device is another one.
        UsageError: OpenVINO is not installed.

    Example:
        >>> model = OpenVinoModel("runs/photos/model.xml")
        >>> model.predict(["one.png", "two.png"])
    """

    def __init__(self, path: str | Path, *, device: str = "auto", threads: int | None = None) -> None:
        super().__init__(path)
        if device not in _DEVICES:
            raise DeviceError(f"device={device!r}: kcv runs OpenVINO's files on the cpu")
        self._threads = threads
        assert self._checked is not None
        self._compiled = _compiled(self.path, self._checked, threads)
        self._checked = None  # OpenVINO has its own copy
        self._local = threading.local()

    def _computed(self, batch: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        with refusing(self.path, ArtifactError, "cannot be run"):
            if not hasattr(self._local, "request"):  # a request computes one batch at a time
                self._local.request = self._compiled.create_infer_request()
            found = self._local.request.infer({INPUT: np.ascontiguousarray(batch)}, share_inputs=True)
            logits, probabilities = (np.array(found[name]) for name in (LOGITS, PROBABILITIES))
        self._sized((logits, probabilities), len(batch))
        return logits, probabilities


def _compiled(path: Path, checked: Checked, threads: int | None) -> Any:
    try:
        import openvino
    except ImportError as error:
        raise UsageError(f"{path}: needs {error.name or 'openvino'}: pip install 'kcv[openvino]'.") from None
    settings: dict[str, Any] = {
        # A processor with bfloat16 would use it, and compute other digits than other machines.
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads or usable_cores(),
        "NUM_STREAMS": 1,
    }
    if threads == 1:  # as many batches at the same time as there are cores, each in one thread
        settings |= {"INFERENCE_NUM_THREADS": usable_cores(), "NUM_STREAMS": usable_cores()}
    with refusing(path, ArtifactError, "cannot be opened as an OpenVINO model"):
        core = openvino.Core()
        model = core.read_model(checked.xml(), openvino.Tensor(np.frombuffer(checked.weights, np.uint8)))
        return core.compile_model(model, "CPU", settings)
