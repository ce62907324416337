"""The task of detection, and the metrics that every training of it reports."""

from __future__ import annotations

from collections.abc import Iterator

from core.catalog.machine import MACHINE
from core.catalog.metric import Metric, share_metric
from core.catalog.tasks import CLASSIFICATION, TASKS, TaskEntry

AP_OF_CLASS, AP_OF_CLASS_TEACHER = "ap_class/", "ap_class_teacher/"
"""The name of a class follows, as in ``ap_class/person``."""

ERROR_KINDS: dict[str, str] = {
    "classification": "wrong class",
    "localisation": "inaccurate box",
    "both": "wrong class and inaccurate box",
    "duplicate": "duplicate",
    "background": "background",
    "missed": "missed object",
}
"""Kinds of errors (TIDE, Bolya et al. 2020), with their names in titles."""

SIZES = ("small", "medium", "large")
"""Sizes of objects: below 32², from 32² to 96², and above 96² pixels of the original image."""

_AP, _AP_SIZES, _AR, _AGREEMENT = (
    "Average precision",
    "Average precision by size",
    "Average recall",
    "Agreement with the teacher",
)

_SPLITS = {
    "test": ("Test", ""),
    "val": ("Validation", ""),
    "test_ema": ("Test", " of averaged weights"),
    "val_ema": ("Validation", " of averaged weights"),
}


def _average_precisions() -> Iterator[Metric]:
    """Yield AP at the three usual thresholds on every split."""
    for split, (prefix, suffix) in _SPLITS.items():
        ema, test = bool(suffix), split == "test"
        yield Metric(
            f"{split}/ap",
            f"{prefix} AP{suffix}",
            "%",
            "higher",
            panel=_AP,
            aliases=("map", "box_ap", "mean_average_precision", "coco_ap") if test else (),
        )
        for score, at in (("ap50", "at IoU 0.5"), ("ap75", "at IoU 0.75")):
            yield Metric(
                f"{split}/{score}",
                f"{prefix} AP {at}{suffix}",
                "%",
                "higher",
                panel="" if ema else _AP,
                aliases=({"ap50": ("map50", "map_50"), "ap75": ("map75", "map_75")}[score]) if test else (),
            )


def _by_size_and_recalls() -> Iterator[Metric]:
    """Yield what is measured on the test split alone, for the network and for its averaged weights."""
    for split in ("test", "test_ema"):
        prefix, suffix = _SPLITS[split]
        is_test = split == "test"
        for size in SIZES:
            title = f"{prefix} AP of {size} objects{suffix}"
            yield Metric(f"{split}/ap_{size}", title, "%", "higher", panel=_AP_SIZES if is_test else "")
        for count in (1, 10, 100):
            title = f"{prefix} AR with {count} detection{'s' if count > 1 else ''} per image{suffix}"
            yield Metric(f"{split}/ar{count}", title, "%", "higher", panel=_AR if is_test else "")
        for size in SIZES:
            title = f"{prefix} AR of {size} objects{suffix}"
            yield Metric(f"{split}/ar_{size}", title, "%", "higher", panel=_AR if is_test else "")


def _agreements() -> Iterator[Metric]:
    regions, detections = (
        "Regions in which the teacher's class has the largest logit",
        "F1 with the teacher's detections",
    )
    yield Metric("fidelity/regions", regions, "%", "higher", panel=_AGREEMENT)
    yield Metric("fidelity/regions_foreground", f"{regions}: objects", "%", "higher", panel=_AGREEMENT)
    yield Metric("fidelity/regions_background", f"{regions}: background", "%", "higher", panel=_AGREEMENT)
    yield Metric("fidelity/detections", detections, "%", "higher", panel=_AGREEMENT)
    for size in SIZES:
        yield Metric(f"fidelity/regions_{size}", f"{regions}: {size} objects", "%", "higher")
    for size in SIZES:
        yield Metric(f"fidelity/detections_{size}", f"{detections}: {size} boxes", "%", "higher")


def _errors() -> Iterator[Metric]:
    for kind, name in ERROR_KINDS.items():
        yield Metric(f"errors/{kind}", f"AP at IoU 0.5 lost: {name}", "%", "lower")
        yield Metric(f"errors/{kind}_teacher", f"Teacher's AP at IoU 0.5 lost: {name}", "%", "lower", drawn=False)


_TERMS_PANEL = "Terms of the detector"

OWN_TERMS = (
    Metric("train/objectness", "Objectness of proposals, unweighted", "nats", "lower", panel=_TERMS_PANEL),
    Metric("train/rpn_box", "Boxes of proposals, unweighted", "", "lower", panel=_TERMS_PANEL),
    Metric("train/box", "Boxes of detections, unweighted", "", "lower", panel=_TERMS_PANEL),
    Metric("train/classification", "Classes of anchors, unweighted", "nats", "lower", panel=_TERMS_PANEL),
)
"""The terms of a detector's own loss. A detector has some of them."""

_SHARED = {metric.name: metric for metric in CLASSIFICATION.metrics}
_SPEED = ("images_per_second", "input_stall", "teacher_reused", "teacher_seconds")

DETECTION = TASKS.add(
    TaskEntry(
        name="detection",
        title="Object detection",
        summary="Each image contains objects of several classes, each in a box.",
        target="core.tasks.detection.task:DetectionTask",
        headline="test/ap",
        validation="val/ap",
        rows_are_regions=True,
        # detectron2's schedules have 0.02 for 16 images in a step. The warm-up is shorter than theirs, because a small
        # data set has few steps.
        usual_training={
            "batch_size": 8,
            "optimizer": {"lr": 0.01, "weight_decay": 1e-4},
            "schedule": {"warmup_steps": 100},
            "clip_grad_norm": 10.0,
        },
        metrics=(
            *_average_precisions(),
            Metric("oracle/ap", "Best test AP of any epoch (oracle)", "%", "higher"),
            *_by_size_and_recalls(),
            _SHARED["train/loss"],
            *OWN_TERMS,
            Metric("train/region_top1", "Regions given their class", "%", "higher", panel="Regions of the training"),
            *_agreements(),
            Metric("calibration/detection_ece", "Calibration error of detections, 15 bins", "%", "lower"),
            Metric("calibration/detection_ece_teacher", "Teacher's calibration error, 15 bins", "%", drawn=False),
            *_errors(),
            Metric("test/ap_teacher", "Teacher's test AP", "%", "higher", drawn=False),
            Metric("test/ap50_teacher", "Teacher's test AP at IoU 0.5", "%", "higher", drawn=False),
            Metric("test/ap75_teacher", "Teacher's test AP at IoU 0.75", "%", "higher", drawn=False),
            *map(share_metric, OWN_TERMS),
            _SHARED["grad/norm"],
            _SHARED["lr"],
            *(_SHARED[f"speed/{name}"] for name in _SPEED),
            *MACHINE,
        ),
        families=(
            Metric(AP_OF_CLASS, "Test AP of the class {}", "%", "higher"),
            Metric(AP_OF_CLASS_TEACHER, "Teacher's test AP of the class {}", "%", "higher", drawn=False),
        ),
    )
)
