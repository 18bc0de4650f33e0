"""The description of a model file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kcv.cli import terminal
from kcv.cli.console import pairs
from kcv.cli.parsing import Call
from kcv.cli.render.figures import with_interval

if TYPE_CHECKING:
    from kcv.artifact import ArtifactInfo
    from kcv.inference.exported import ExportedInfo
    from kcv.tasks.info import ModelCard


def show(card: ModelCard, call: Call) -> int:
    """Shows the description of a model file."""
    if call.as_json:
        terminal.json_of(card.to_dict())
        return 0
    from kcv.artifact import ArtifactInfo

    content, path = card.content, card.path
    terminal.show(model_card(content, path) if isinstance(content, ArtifactInfo) else exported_card(content, path))
    return 0


def model_card(content: ArtifactInfo, path: Path) -> str:
    """Returns the description in a model file."""
    rows: dict[str, Any] = {
        "model": f"{content.model_name}, {_parameters(content)}, trained in {content.precision}",
        "classes": _classes(content.class_names),
        "input": f"{content.image_size}x{content.image_size} RGB, other sizes: {content.resize}",
        "data": f"{content.data_name} (fingerprint {content.data_fingerprint[:12]})",
        "epoch kept": content.best_epoch if content.best_epoch is not None else "-",
    }
    if content.model_source:
        rows["built by"] = f"{content.model_source.name} (SHA-256 {content.model_source.sha256[:12]})"
    if content.calibration:
        rows["calibration"] = content.calibration.describe()
    rows |= {f"with --tta={name}": found.describe() for name, found in content.tta.root.items()}
    if content.metrics:
        rows[f"{content.metrics['split']} accuracy"] = with_interval(content.metrics)
    rows["made"] = f"{content.created:%Y-%m-%d %H:%M} UTC with " + ", ".join(
        f"{name} {version}" for name, version in content.versions.items()
    )
    rows["file"] = f"{path}, {path.stat().st_size / 1e6:.1f} MB"
    return pairs(rows)


def exported_card(content: ExportedInfo, path: Path) -> str:
    """Returns the description in an exported file."""
    from kcv.inference.runtimes import runtime_of

    runtime = runtime_of(path)
    assert runtime is not None
    return pairs(
        {
            "model": f"{content.model_name}, {runtime.title}, {content.precision}",
            "classes": _classes(content.class_names),
            "input": f"{content.image_size}x{content.image_size} RGB, other sizes: {content.resize}",
            "data": f"{content.data_name} (fingerprint {content.data_fingerprint[:12]})",
            "confidence": f"temperature {content.temperature:.3f}"
            + (f", unsure below {content.threshold:.4f}" if content.threshold is not None else "")
            + (f", {content.sets.describe()}" if content.sets is not None else "")
            + (f", mean over --tta={content.tta}" if content.tta is not None else ""),
            "made": f"with kcv {content.kcv_version}",
            "file": f"{path}, {path.stat().st_size / 1e6:.1f} MB",
        }
    )


def _classes(names: Sequence[str]) -> str:
    shown = ", ".join(names[:20]) + (f" ... and {len(names) - 20} more" if len(names) > 20 else "")
    return f"{len(names)}: {shown}"


def _parameters(content: ArtifactInfo) -> str:
    total, trained = content.parameters["total"], content.parameters.get("trainable")
    return f"{total:,} parameters" + (f" ({trained:,} of them learned)" if trained not in (None, total) else "")
