"""What is counted about a server, for Prometheus; nothing is where prometheus-client is not installed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kcv.serving.model import Version

_MOST_CLASSES = 1000
"""Models with more classes have no series per class: a store of metrics would not bear them."""
_BINS = 15
"""Bins of confidence, as in the metrics of an evaluation."""
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


@dataclass(frozen=True)
class Answers:
    """How a model has answered since the server started.

    Attributes:
        confidence: images per bin of confidence; the bins are equally wide, from 0 to 1.
        predicted: images per likeliest class, in the order of the class names; empty for very many classes.
    """

    confidence: list[int]
    predicted: list[int]


class Metrics(ABC):
    """Counts what happens. Called from the event loop and from workers."""

    @abstractmethod
    def answered(self, route: str, code: int, seconds: float) -> None:
        """Counts an answer, by the name of its route."""

    @abstractmethod
    def classified(self, version: Version, probabilities: NDArray[np.float32], seconds: float) -> None:
        """Counts a batch: its probabilities, float32 [n, classes], and the seconds that the model took."""

    @abstractmethod
    def loaded(self, version: Version) -> None:
        """Notes the version of a model that answers now, and how it answered on its test split."""

    @abstractmethod
    def reloaded(self, name: str, *, done: bool) -> None:
        """Counts a try to reload a model."""

    @abstractmethod
    def watch(self, name: str, meaning: str, value: Callable[[], float]) -> None:
        """Adds a value that is read when the metrics are."""

    @abstractmethod
    def answers(self, version: Version) -> Answers | None:
        """Returns how a model has answered; None if nothing is counted."""

    @abstractmethod
    def text(self) -> tuple[bytes, str] | None:
        """Returns all metrics in Prometheus' format and its media type; None if nothing is counted."""


class NoMetrics(Metrics):
    """Counts nothing."""

    def answered(self, route: str, code: int, seconds: float) -> None:
        """Does nothing."""

    def classified(self, version: Version, probabilities: NDArray[np.float32], seconds: float) -> None:
        """Does nothing."""

    def loaded(self, version: Version) -> None:
        """Does nothing."""

    def reloaded(self, name: str, *, done: bool) -> None:
        """Does nothing."""

    def watch(self, name: str, meaning: str, value: Callable[[], float]) -> None:
        """Does nothing."""

    def answers(self, version: Version) -> Answers | None:
        """Returns None."""
        return None

    def text(self) -> tuple[bytes, str] | None:
        """Returns None."""
        return None


class PrometheusMetrics(Metrics):
    """Counts in a registry of its own, which no other library writes to.

    The histogram of confidences and the counts of classes stand beside those of the test split, in the same bins, so
    that data which have drifted away from it show.
    """

    def __init__(self) -> None:
        import prometheus_client

        prometheus: Any = prometheus_client  # typed only in part
        prometheus.disable_created_metrics()  # a second series for each, which nothing reads
        registry = self._registry = prometheus.CollectorRegistry(auto_describe=False)
        self._library = prometheus
        self._versions: dict[str, Version] = {}

        def make(kind: Any, name: str, meaning: str, labels: tuple[str, ...], **more: Any) -> Any:
            return kind(name, meaning, labels, registry=registry, **more)

        counter, gauge, histogram = prometheus.Counter, prometheus.Gauge, prometheus.Histogram
        bins = [number / _BINS for number in range(1, _BINS + 1)]
        sizes = [2**power for power in range(8)]
        self._requests = make(counter, "kcv_requests", "Answers by route and code", ("route", "code"))
        self._seconds = make(histogram, "kcv_request_seconds", "Time per request", ("route",), buckets=_SECONDS)
        self._batches = make(histogram, "kcv_batch_images", "Images per batch", ("model",), buckets=sizes)
        self._runs = make(histogram, "kcv_inference_seconds", "Time per batch", ("model",), buckets=_SECONDS)
        self._predictions = make(counter, "kcv_predictions", "Images by likeliest class", ("model", "class"))
        self._confidence = make(histogram, "kcv_confidence", "Confidence of answers", ("model",), buckets=bins)
        self._unsure = make(counter, "kcv_unsure", "Answers below the model's threshold", ("model",))
        self._models = make(gauge, "kcv_model_info", "Models that answer", ("model", "version", "precision"))
        self._reloads = make(counter, "kcv_reloads", "Tries to reload a model", ("model", "done"))
        self._expected = make(
            gauge,
            "kcv_reference_predictions",
            "Fraction of a class among the answers on the test split",
            ("model", "class"),
        )
        self._expected_confidence = make(
            gauge, "kcv_reference_confidence", "Fraction of the test split up to a confidence", ("model", "le")
        )

    def answered(self, route: str, code: int, seconds: float) -> None:
        """Counts an answer."""
        self._requests.labels(route, str(code)).inc()
        self._seconds.labels(route).observe(seconds)

    def classified(self, version: Version, probabilities: NDArray[np.float32], seconds: float) -> None:
        """Counts a batch."""
        self._batches.labels(version.name).observe(len(probabilities))
        self._runs.labels(version.name).observe(seconds)
        confidences = probabilities.max(axis=1)
        observe = self._confidence.labels(version.name).observe
        for confidence in confidences:
            observe(min(1.0, float(confidence)))  # above 1 by rounding, it would be in no bin
        threshold = version.classifier.threshold
        if threshold is not None:
            self._unsure.labels(version.name).inc(int((~(confidences >= threshold)).sum()))
        names = version.class_names
        if len(names) <= _MOST_CLASSES:
            counts = np.bincount(probabilities.argmax(axis=1), minlength=len(names))
            for position in np.flatnonzero(counts):
                self._predictions.labels(version.name, names[position]).inc(int(counts[position]))

    def loaded(self, version: Version) -> None:
        """Notes the version that answers now."""
        self._versions[version.name] = version
        for family in (self._models, self._expected, self._expected_confidence):
            family.clear()  # what the old version said is no longer true
        for one in self._versions.values():
            self._describe(one)

    def _describe(self, version: Version) -> None:
        name, reference = version.name, version.reference
        self._models.labels(name, version.digest, version.precision).set(1)
        if reference is None:
            return
        shares = reference.confidence_shares
        for number, share in enumerate(accumulate(shares), start=1):
            self._expected_confidence.labels(name, repr(number / len(shares))).set(min(1.0, share))
        if len(version.class_names) <= _MOST_CLASSES:
            for label, share in zip(version.class_names, reference.predicted_shares, strict=False):
                self._expected.labels(name, label).set(share)

    def reloaded(self, name: str, *, done: bool) -> None:
        """Counts a try to reload a model."""
        self._reloads.labels(name, str(done).lower()).inc()

    def watch(self, name: str, meaning: str, value: Callable[[], float]) -> None:
        """Adds a value that is read when the metrics are."""
        self._library.Gauge(name, meaning, registry=self._registry).set_function(value)

    def answers(self, version: Version) -> Answers | None:
        """Returns how a model has answered, in the bins of its confidence and in the order of its classes."""
        below = sorted(
            (float(labels["le"]), count) for labels, count in self._samples(self._confidence, "_bucket", version)
        )
        counts = [int(count) for _, count in below] or [0] * (_BINS + 1)
        confidence = [now - before for before, now in zip([0, *counts], counts, strict=False)][:_BINS]
        names = version.class_names
        if len(names) > _MOST_CLASSES:
            return Answers(confidence, [])
        by_class = {
            labels["class"]: int(count) for labels, count in self._samples(self._predictions, "_total", version)
        }
        return Answers(confidence, [by_class.get(name, 0) for name in names])

    def _samples(self, family: Any, end: str, version: Version) -> list[tuple[dict[str, str], float]]:
        """Returns the labels and the value of each sample of a family about a model, of those whose name ends so."""
        return [
            (sample.labels, sample.value)
            for metric in family.collect()
            for sample in metric.samples
            if sample.name.endswith(end) and sample.labels["model"] == version.name
        ]

    def text(self) -> tuple[bytes, str] | None:
        """Returns all metrics in Prometheus' format."""
        return self._library.generate_latest(self._registry), self._library.CONTENT_TYPE_LATEST


def metrics() -> Metrics:
    """Returns metrics that count, if prometheus-client is installed."""
    try:
        return PrometheusMetrics()
    except ModuleNotFoundError:
        return NoMetrics()
