"""The metrics that a training reports: their meaning, their unit, and whether higher or lower is better."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Metric:
    """Description of a metric.

    Attributes:
        name: Stored name, ``group/name``.
        title: Title of an axis.
        unit: "%", "nats" …; empty for a pure number.
        better: Whether higher or lower is better; None if neither is.
        of: Name of the metric that counts the images of the mean, if these are a part of the test images; else "".
    """

    name: str
    title: str
    unit: str = ""
    better: Literal["higher", "lower"] | None = None
    of: str = ""

    @property
    def label(self) -> str:
        """Title with unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


RIGHT, WRONG = "fidelity/images_right", "fidelity/images_wrong"

_SEVERITIES = range(1, 6)

ROBUSTNESS: dict[str, str] = (
    {"patch": "noise on a patch", "scrambled": "scrambled patches"}
    | {f"noise_{severity}": f"Gaussian noise, severity {severity}" for severity in _SEVERITIES}
    | {f"blur_{severity}": f"Gaussian blur, severity {severity}" for severity in _SEVERITIES}
    | {"stylised": "stylised images"}
)
"""Perturbations of test images, with their names in titles."""


_ALIASES: dict[str, tuple[str, ...]] = {
    "test/top1": ("acc", "accuracy", "test_acc", "acc1"),
    "test/loss": ("nll", "test_nll"),
    "val/top1": ("val_acc", "validation_accuracy"),
    "train/top1": ("train_acc", "training_accuracy"),
}


def _robustness() -> Iterator[Metric]:
    for kind, title in ROBUSTNESS.items():
        for suffix, whose in (("", "Accuracy"), ("_teacher", "Teacher's accuracy")):
            yield Metric(f"robustness/{kind}{suffix}", f"{whose}: {title}", "%", "higher")
            yield Metric(f"robustness/{kind}{suffix}_drop", f"{whose} lost: {title}", "%", "lower")


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("test/top1", "Test accuracy", "%", "higher"),
        Metric("oracle/top1", "Best test accuracy of any epoch (oracle)", "%", "higher"),
        Metric("test/top5", "Test accuracy, top 5", "%", "higher"),
        Metric("test/loss", "Test cross-entropy (NLL)", "nats", "lower"),
        Metric("val/top1", "Validation accuracy", "%", "higher"),
        Metric("val/top5", "Validation accuracy, top 5", "%", "higher"),
        Metric("val/loss", "Validation cross-entropy (NLL)", "nats", "lower"),
        Metric("train/top1", "Training accuracy", "%", "higher"),
        Metric("train/top5", "Training accuracy, top 5", "%", "higher"),
        # Training losses of different methods cannot be compared. The loss is the sum of its terms with their weights,
        # ramp and decay; each term is measured without these.
        Metric("train/loss", "Training loss", "nats"),
        Metric("train/ce", "Cross-entropy term, unweighted", "nats", "lower"),
        Metric("train/kd", "KD term, unweighted", "nats"),
        Metric("train/tckd", "TCKD term, unweighted", "nats"),
        Metric("train/nckd", "NCKD term, unweighted", "nats"),
        Metric("train/target", "NKD's target term, unweighted", "nats"),
        Metric("train/non_target", "NKD's non-target term, unweighted", "nats"),
        Metric("train/scd", "RLD's sample confidence term (SCD), unweighted", "nats"),
        Metric("train/mcd", "RLD's masked correlation term (MCD), unweighted", "nats"),
        Metric("train/inter", "DIST's distance over the classes (inter-class), unweighted"),
        Metric("train/intra", "DIST's distance over the batch (intra-class), unweighted"),
        Metric("train/target_mse", "DKD-Divergence's distance of the target probabilities, unweighted"),
        Metric("train/divergence", "DKD-Divergence's distance of the other probabilities, unweighted"),
        Metric("train/align", "Alignment term A, unweighted"),
        Metric("train/epsilon", "ε after decay"),
        Metric("grad/similarity", "Gradient similarity (mean cosine)"),
        Metric("grad/skipped", "Samples without a gradient similarity", "%"),
        Metric("grad/covariance", "Normalised covariance of the TCKD and NCKD gradients"),
        Metric("grad/tckd_norm", "TCKD gradient, RMS norm per sample"),
        Metric("grad/nckd_norm", "NCKD gradient, RMS norm per sample"),
        Metric("grad/align_share", "Alignment term's share of the gradient", "%"),
        Metric("grad/align_cosine", "Cosine of the alignment gradient with the rest"),
        Metric("logits/student_target", "Student's target logit, mean magnitude"),
        Metric("logits/student_others", "Student's non-target logits, mean norm"),
        Metric("logits/teacher_target", "Teacher's target logit, mean magnitude"),
        Metric("logits/teacher_others", "Teacher's non-target logits, mean norm"),
        Metric("fidelity/agreement", "Agreement with the teacher", "%", "higher"),
        Metric("fidelity/agreement_right", "Agreement where the teacher is right", "%", "higher", RIGHT),
        Metric("fidelity/agreement_wrong", "Agreement where the teacher is wrong", "%", None, WRONG),
        Metric("fidelity/kl", "KL(teacher ‖ student)", "nats", "lower"),
        Metric("fidelity/kl_right", "KL(teacher ‖ student) where the teacher is right", "nats", "lower", RIGHT),
        Metric("fidelity/kl_wrong", "KL(teacher ‖ student) where the teacher is wrong", "nats", None, WRONG),
        Metric(RIGHT, "Test images on which the teacher is right", "images"),
        Metric(WRONG, "Test images on which the teacher is wrong", "images"),
        Metric("calibration/ece", "Expected calibration error, 15 bins", "%", "lower"),
        Metric("collapse/nc1", "NC1: variability within classes"),
        Metric("collapse/nc2_norms", "NC2: spread of the class means' norms"),
        Metric("collapse/nc2_angles", "NC2: class means' distance from maximal angles"),
        Metric("collapse/nc2_weight_norms", "NC2: spread of the classifier's norms"),
        Metric("collapse/nc2_weight_angles", "NC2: classifier's distance from maximal angles"),
        Metric("collapse/nc3", "NC3: classifier's distance from the class means"),
        Metric("collapse/nc4", "NC4: disagreement with the nearest class mean", "%"),
        *_robustness(),
        Metric("lr", "Learning rate"),
        Metric("speed/images_per_second", "Training speed", "images/s"),
        Metric("speed/input_stall", "Share of an epoch spent waiting for images", "%", "lower"),
        Metric("speed/teacher_reused", "Images whose teacher logits were read from disk", "%"),
        Metric("speed/teacher_seconds", "Time spent on the teacher's logits since the run began", "s"),
    )
}


COUNTS = frozenset(metric.of for metric in METRICS.values() if metric.of)
"""Metrics that count the images of other metrics. They describe the teacher, and are shown but not compared."""


def metric_spellings() -> dict[str, tuple[str, ...]]:
    """Return the names of the metrics, each with its other spellings and synonyms."""
    return {name: (metric.title, name.rpartition("/")[2], *_ALIASES.get(name, ())) for name, metric in METRICS.items()}


def describe_metrics() -> list[dict[str, Any]]:
    """Return every known metric as JSON."""
    return [asdict(metric) | {"label": metric.label} for metric in METRICS.values()]
