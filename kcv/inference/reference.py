"""How a model answered on its test split: what its later answers are compared with, to see data drift."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from kcv.common.text import is_printable
from kcv.common.untrusted import parse
from kcv.errors import ArtifactError

_MOST_COUNT = 10**12

Counts = tuple[Annotated[int, Field(ge=0, le=_MOST_COUNT)], ...]


class Reference(BaseModel):
    """Counts of a model's answers on one split.

    Attributes:
        split: name of the split.
        confidence: images per bin of confidence; the bins are equally wide, from 0 to 1, and exclude their lower ends.
        predicted: images per predicted class, in the order of the class names; empty if that is not known.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    split: Annotated[str, Field(max_length=100)]
    confidence: Annotated[Counts, Field(min_length=2, max_length=1000, strict=False)]
    predicted: Annotated[Counts, Field(max_length=100_000, strict=False)] = ()

    @property
    def confidence_shares(self) -> list[float]:
        """The fraction of the images (0-1) in each bin of confidence."""
        return _shares(self.confidence)

    @property
    def predicted_shares(self) -> list[float]:
        """The fraction of the images (0-1) per predicted class; empty if that is not known."""
        return _shares(self.predicted)

    def to_text(self) -> str:
        """Returns it as one line of JSON."""
        return self.model_dump_json()

    @classmethod
    def from_text(cls, text: str, origin: str) -> Reference:
        """Reads what `to_text` wrote.

        Args:
            text: the text, from an untrusted file.
            origin: the file's name, for the message.

        Raises:
            ArtifactError: the text is damaged.
        """
        found = parse(text.encode(), cls, origin, ArtifactError)
        if not is_printable(found.split):
            raise ArtifactError(f"{origin}: its description is damaged")
        return found

    @classmethod
    def from_metrics(cls, metrics: Mapping[str, Any] | None) -> Reference | None:
        """Returns the counts in the metrics of a split, as `kcv.metrics.summarize` computes them.

        Returns:
            None if there are no metrics, or only those of a version of kcv that did not keep the bins.
        """
        bins = [row["n"] for row in (metrics or {}).get("reliability", ()) if isinstance(row, Mapping) and "n" in row]
        if metrics is None or len(bins) < 2:
            return None
        predicted = [row.get("predicted") for row in metrics["per_class"].values()]
        values = {"split": metrics["split"], "confidence": bins}
        if None not in predicted:
            values["predicted"] = predicted
        # Numbers of a file: checked like those of any other.
        return parse(json.dumps(values).encode(), cls, "the metrics of the model", ArtifactError)


def _shares(counts: Counts) -> list[float]:
    total = sum(counts)
    return [count / total if total else 0.0 for count in counts]
