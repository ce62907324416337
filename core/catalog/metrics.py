"""The metrics that a training reports: what each means, its unit, and which way is better."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Metric:
    """A metric's meaning.

    Attributes:
        name: as it is stored, ``group/name``.
        title: as an axis shows it.
        unit: "%" or "nats" …; empty for a pure number.
        better: which way is better, or None where neither is.
    """

    name: str
    title: str
    unit: str = ""
    better: Literal["higher", "lower"] | None = None

    @property
    def label(self) -> str:
        """Title with unit, for an axis."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("test/top1", "Test accuracy", "%", "higher"),
        Metric("test/loss", "Test cross-entropy", "nats", "lower"),
        Metric("val/top1", "Validation accuracy", "%", "higher"),
        Metric("val/loss", "Validation cross-entropy", "nats", "lower"),
        Metric("train/top1", "Training accuracy", "%", "higher"),
        Metric("train/loss", "Training loss", "nats", "lower"),
        Metric("train/ce", "Cross-entropy term", "nats", "lower"),
        Metric("train/kd", "KD term", "nats", "lower"),
        Metric("train/tckd", "TCKD term", "nats", "lower"),
        Metric("train/nckd", "NCKD term", "nats", "lower"),
        Metric("train/align", "Alignment term A"),
        Metric("train/epsilon", "ε after decay"),
        Metric("grad/similarity", "Gradient similarity (mean cosine)"),
        Metric("grad/tckd_norm", "TCKD gradient, RMS norm a sample"),
        Metric("grad/nckd_norm", "NCKD gradient, RMS norm a sample"),
        Metric("grad/align_share", "Alignment term's share of the gradient", "%"),
        Metric("grad/align_cosine", "Cosine of the alignment gradient with the rest"),
        Metric("fidelity/agreement", "Agreement with the teacher", "%", "higher"),
        Metric("lr", "Learning rate"),
        Metric("speed/images_per_second", "Training speed", "images/s", "higher"),
    )
}


def describe_metrics() -> list[dict[str, Any]]:
    """Every known metric as JSON."""
    return [asdict(metric) | {"label": metric.label} for metric in METRICS.values()]
