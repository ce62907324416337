"""Checks of a spec that need the data set, made before the first step and not after hours of training."""

from __future__ import annotations

from core.errors import TrainingError
from core.specs import RunSpec
from core.tasks.detection.data import DetectionData
from core.tasks.detection.models.detector import Detector


def check_data_fits(spec: RunSpec, data: DetectionData) -> None:
    """Check that the data set has enough classes for the method.

    Only the worker knows some data sets, for example a folder of images.

    Raises:
        TrainingError: It has not.
    """
    for member in spec.method.members:
        needed = member.entry.classes_needed_by(member.parsed_params)
        if text := needed.problem(member.name, spec.dataset.name, data.num_classes):
            raise TrainingError("spec", f"{text} with the background")


def check_detector(spec: RunSpec, detector: Detector, data: DetectionData) -> None:
    """Check that a detector can be trained on the images by the run's method.

    Raises:
        TrainingError: The images have not the size that the detector needs, or it has no logits for the method.
    """
    name = spec.model.name
    if detector.fixed_size and data.largest != detector.fixed_size:
        height, width = detector.fixed_size
        raise TrainingError("spec", f"{name} reads images of {width}×{height} pixels: set the data set's size to it")
    compared = [m.name for m in spec.method.members if m.entry.needs_teacher and not m.entry.reads_maps_alone]
    if compared and not detector.gives_regions:
        raise TrainingError(
            "spec",
            f"{compared[0]} compares the logits of boxes, and {name} has none that exclude each other; choose a "
            "method that reads maps, or faster_rcnn or an SSD",
        )
