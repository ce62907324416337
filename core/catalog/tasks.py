"""The tasks: what networks are trained for, and the metrics that every training of a task reports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from core.catalog.machine import MACHINE
from core.catalog.metric import LOSS_PANEL, Metric
from core.catalog.registry import Entry, Registry


@dataclass(frozen=True, kw_only=True)
class TaskEntry(Entry):
    """A task. A data set belongs to one (``DatasetEntry.task``). ``target`` is a subclass of ``core.tasks.task.Task``.

    Attributes:
        headline: Name of the metric that results are judged by: in lists, comparisons, tables and claims, and as a
            teacher's score. A higher value is better, because runs are ranked by it, reach a target from below, and
            have a share of the teacher's value.
        validation: Name of the headline metric as it is measured on the validation split.
        metrics: What every training of the task reports, whatever its method.
        families: Metrics of which there is one for each class of the data set. The class's name follows ``name``, which
            ends with a slash, and replaces ``{}`` in the title.
        rows_are_regions: Whether the rows are regions of images, one of whose classes is the background, and not the
            images.
        headline_counts_images: Whether the headline metric is the share of the test images that are right, in %, so
            that one image is the least difference that it can show.
        item: What an item of its data sets is called, such as an image or a sentence; the plural has an s.
        usual_training: Settings of a training that are usual for the task and not the defaults. A form starts with
            them. A spec has its ``batch_size`` unless it says otherwise, and the rest if it names no optimiser.
    """

    headline: str
    validation: str
    metrics: tuple[Metric, ...]
    families: tuple[Metric, ...] = ()
    rows_are_regions: bool = False
    headline_counts_images: bool = False
    item: str = "image"
    usual_training: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        described = {metric.name: metric for metric in self.metrics}
        for name in (self.headline, self.validation):
            if name not in described:
                raise ValueError(f"task {self.name!r} does not describe its metric {name!r}")
            if described[name].better != "higher":
                text = f"task {self.name!r} is judged by {name!r}, of which a higher value has to be better"
                raise ValueError(f"{text}; describe it so, or choose another metric")

    def describe(self) -> dict[str, Any]:
        return super().describe() | {
            "headline": self.headline,
            "validation": self.validation,
            "rows_are_regions": self.rows_are_regions,
            "item": self.item,
            "usual_training": dict(self.usual_training),
        }


class TaskRegistry(Registry[TaskEntry]):
    """The tasks. Entries may share a metric, such as the learning rate, if they describe it equally."""

    def add(self, entry: TaskEntry) -> TaskEntry:
        """Add an entry.

        Raises:
            ValueError: The name is taken, or another task describes one of its metrics differently.
        """
        known = {metric.name: (metric, owner) for owner in self for metric in owner.metrics}
        for metric in entry.metrics:
            other, owner = known.get(metric.name, (metric, entry))
            if other != metric:
                text = f"task {entry.name!r} and {owner.name!r} describe the metric {metric.name!r} differently"
                raise ValueError(f"{text}; use the same Metric, or another name")
        return super().add(entry)


TASKS = TaskRegistry("task")

RIGHT, WRONG = "fidelity/images_right", "fidelity/images_wrong"
COLLAPSE_IMAGES = "collapse/images"

_SEVERITIES = range(1, 6)

ROBUSTNESS: dict[str, str] = (
    {"patch": "noise on a patch", "scrambled": "scrambled patches"}
    | {f"noise_{severity}": f"Gaussian noise, severity {severity}" for severity in _SEVERITIES}
    | {f"blur_{severity}": f"Gaussian blur, severity {severity}" for severity in _SEVERITIES}
    | {"stylised": "stylised images"}
)
"""Perturbations of test images, with their names in titles."""


def _robustness() -> Iterator[Metric]:
    for kind, title in ROBUSTNESS.items():
        for suffix, whose in (("", "Accuracy"), ("_teacher", "Teacher's accuracy")):
            name, of_all = f"robustness/{kind}{suffix}", kind != "stylised"
            yield Metric(name, f"{whose}: {title}", "%", "higher", of_all=of_all)
            yield Metric(f"{name}_drop", f"{whose} lost: {title}", "%", "lower", of_all=of_all)


_ACCURACY, _AGREEMENT = "Accuracy", "Agreement with the teacher"

_CLASSIFICATION = (
    Metric(
        "test/top1",
        "Test accuracy",
        "%",
        "higher",
        of_all=True,
        panel=_ACCURACY,
        aliases=("acc", "accuracy", "test_acc", "acc1"),
    ),
    Metric("oracle/top1", "Best test accuracy of any epoch (oracle)", "%", "higher", of_all=True),
    Metric("test/top5", "Test accuracy, top 5", "%", "higher", of_all=True),
    Metric("test/loss", "Test cross-entropy (NLL)", "nats", "lower", panel=LOSS_PANEL, aliases=("nll", "test_nll")),
    Metric(
        "val/top1", "Validation accuracy", "%", "higher", panel=_ACCURACY, aliases=("val_acc", "validation_accuracy")
    ),
    Metric("val/top5", "Validation accuracy, top 5", "%", "higher"),
    Metric("val/loss", "Validation cross-entropy (NLL)", "nats", "lower"),
    Metric("test_ema/top1", "Test accuracy of averaged weights", "%", "higher", of_all=True, panel=_ACCURACY),
    Metric("test_ema/top5", "Test accuracy of averaged weights, top 5", "%", "higher", of_all=True),
    Metric("test_ema/loss", "Test cross-entropy (NLL) of averaged weights", "nats", "lower"),
    Metric("val_ema/top1", "Validation accuracy of averaged weights", "%", "higher", panel=_ACCURACY),
    Metric("val_ema/top5", "Validation accuracy of averaged weights, top 5", "%", "higher"),
    Metric("val_ema/loss", "Validation cross-entropy (NLL) of averaged weights", "nats", "lower"),
    Metric(
        "train/top1", "Training accuracy", "%", "higher", panel=_ACCURACY, aliases=("train_acc", "training_accuracy")
    ),
    Metric("train/top5", "Training accuracy, top 5", "%", "higher"),
    # Training losses of different methods cannot be compared. The loss is the sum of its terms with their weights,
    # ramp and decay; each term is measured without these.
    Metric("train/loss", "Training loss, weighted", "nats", panel=LOSS_PANEL),
    Metric("logits/student_target", "Student's target logit, mean magnitude"),
    Metric("logits/student_others", "Student's non-target logits, mean norm"),
    Metric("logits/teacher_target", "Teacher's target logit, mean magnitude"),
    Metric("logits/teacher_others", "Teacher's non-target logits, mean norm"),
    Metric("fidelity/agreement", "Agreement with the teacher", "%", "higher", of_all=True, panel=_AGREEMENT),
    Metric(
        "fidelity/agreement_right", "Agreement where the teacher is right", "%", "higher", of=RIGHT, panel=_AGREEMENT
    ),
    Metric("fidelity/agreement_wrong", "Agreement where the teacher is wrong", "%", of=WRONG, panel=_AGREEMENT),
    Metric("fidelity/kl", "KL(teacher ‖ student)", "nats", "lower"),
    Metric("fidelity/kl_right", "KL(teacher ‖ student) where the teacher is right", "nats", "lower", of=RIGHT),
    Metric("fidelity/kl_wrong", "KL(teacher ‖ student) where the teacher is wrong", "nats", of=WRONG),
    Metric(RIGHT, "Test images on which the teacher is right", "images"),
    Metric(WRONG, "Test images on which the teacher is wrong", "images"),
    Metric("calibration/ece", "Expected calibration error, 15 bins", "%", "lower", of_all=True),
    Metric("collapse/nc1", "NC1: variability within classes"),
    Metric("collapse/nc2_norms", "NC2: spread of the class means' norms"),
    Metric("collapse/nc2_angles", "NC2: class means' distance from maximal angles"),
    Metric("collapse/nc2_weight_norms", "NC2: spread of the classifier's norms"),
    Metric("collapse/nc2_weight_angles", "NC2: classifier's distance from maximal angles"),
    Metric("collapse/nc3", "NC3: classifier's distance from the class means"),
    Metric("collapse/nc4", "NC4: disagreement with the nearest class mean", "%", of=COLLAPSE_IMAGES),
    Metric(COLLAPSE_IMAGES, "Training images of the measures of collapse", "images"),
    *_robustness(),
    Metric("grad/norm", "Gradient of all weights, norm before it is limited"),
    Metric("lr", "Learning rate", panel="Learning rate"),
    Metric("speed/images_per_second", "Training speed", "images/s"),
    Metric("speed/input_stall", "Share of an epoch spent waiting for images", "%", "lower"),
    Metric("speed/teacher_reused", "Images whose teacher logits were read from disk", "%"),
    Metric("speed/teacher_seconds", "Time spent on the teacher's logits since the run began", "s"),
    *MACHINE,
)

CLASSIFICATION = TASKS.add(
    TaskEntry(
        name="classification",
        title="Classification",
        summary="Each image belongs to one of several classes.",
        target="core.tasks.classification.task:ClassificationTask",
        headline="test/top1",
        validation="val/top1",
        metrics=_CLASSIFICATION,
        headline_counts_images=True,
    )
)
