"""Checks of a spec that need the data set, made before the first step and not after hours of training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from core.catalog import DATASETS, MODELS, DatasetFacts
from core.errors import TrainingError
from core.specs import RunSpec
from core.specs.method_checks import method_context, problems_of_data
from core.specs.warnings import method_warnings
from core.tasks.detection.data import DetectionData
from core.tasks.detection.models.detector import Detector
from core.tasks.detection.networks import features_once


def check_data_fits(spec: RunSpec, data: DetectionData) -> None:
    """Check that the method can be trained on the data set, which has too few classes for some.

    Only the worker knows some data sets, for example a folder of images.

    Raises:
        TrainingError: The data set has too few classes.
    """
    for path, text, _ in problems_of_data(spec.method, spec.dataset, spec.training, _facts(data)):
        raise TrainingError("spec", f"{'.'.join(map(str, ('method', *path)))}: {text}")


def on_canvas(spec: RunSpec, data: DetectionData) -> DetectionData:
    """Return the data set with its batches padded to the size that the run's network needs, if it needs one.

    Raises:
        TrainingError: Images can be larger.
    """
    side = MODELS[spec.model.name].fixed_image_size
    if not side:
        return data
    if data.resize.max_size > side:
        raise TrainingError(
            "spec",
            f"{spec.model.name} reads images of up to {side}×{side} pixels, and those of {spec.dataset.name} can have "
            f"{data.resize.max_size} on a side: set dataset.params.min_size and max_size to {side}",
        )
    return replace(data, canvas=(side, side))


def data_warnings(spec: RunSpec, data: DetectionData) -> Iterator[str]:
    """Yield the warnings about a method that depend on the classes, if only the worker knows these.

    With few classes ε may be beyond its bound: with three kinds of objects that of the authors is.
    """
    if DATASETS[spec.dataset.name].facts(spec.dataset.parsed_params) is not None:
        return  # the warnings were made when the spec was submitted
    unknown = method_context(spec.training, spec.dataset, None)
    known = method_context(spec.training, spec.dataset, _facts(data))
    before = set(method_warnings(spec.method, unknown))
    yield from (str(warning) for warning in method_warnings(spec.method, known) if warning not in before)


def _facts(data: DetectionData) -> DatasetFacts:
    return DatasetFacts(data.num_classes, 3, max(data.largest), len(data.train), len(data.test))


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


def check_same_anchors(spec: RunSpec, student: Detector, teacher: Detector, data: DetectionData) -> None:
    """Check that student and teacher have the same anchors, where the teacher has logits of these alone.

    Raises:
        TrainingError: They have others.
    """
    if teacher.two_stage or not teacher.gives_regions:
        return
    size = data.largest
    ours, theirs = (one.propose(features_once(one, size), [size])[0] for one in (student, teacher))
    if ours.shape != theirs.shape or not torch.equal(ours.cpu(), theirs.cpu()):
        raise TrainingError(
            "spec",
            f"method: {spec.method.name} compares logits of anchors, and in images of {size[1]}×{size[0]} pixels "
            f"{spec.model.name} has {len(ours)} and its teacher {len(theirs)} others; give both the same levels, with "
            "backbones of the same strides",
        )
