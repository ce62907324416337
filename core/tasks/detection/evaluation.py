"""What detectors find in the test and validation images, found once and measured in several ways."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from core.items.boxes import Detections
from core.items.detection_table import DetectionTable
from core.tasks.classification.diagnostics.inference import eval_mode
from core.tasks.detection.data import DetectionData, DetectionSplit
from core.tasks.detection.metrics.agreement import region_agreement
from core.tasks.detection.metrics.per_image import image_columns, image_detections
from core.tasks.detection.metrics.report import Judged, final_report, judged, report, validation_report
from core.tasks.detection.models.detector import Detector
from core.tasks.detection.regions import label_boxes
from core.tasks.detection.types import DetectionBatch, ImageDetections

_BATCH_PIXELS = 1 << 21
"""Pixels of the images that a detector evaluates at once: 8 of 512 × 512."""
_TEACHERS_BOXES = 32
"""Of an image, the teacher's best detections on which the classes of teacher and student are compared."""


@dataclass(frozen=True)
class _TeachersRegions:
    """Boxes of the test images on which the classes of students and teacher are compared, and what the teacher says.

    Attributes:
        boxes: (n, 4) of each image, in pixels of the image as a network sees it: the labelled objects, then the
            teacher's best detections.
        logits: (R, C), of all boxes.
        target: (R,), their classes.
        area: (R,), their areas in pixels of the original images.
    """

    boxes: tuple[Tensor, ...]
    logits: NDArray[Any]
    target: NDArray[Any]
    area: NDArray[Any]


class Evaluation:
    """The evaluation of detectors on the images of one run.

    Args:
        data: The images.
    """

    def __init__(self, data: DetectionData) -> None:
        self._data, self._truth = data, data.ground_truth(data.test)
        self._teacher: Judged | None = None
        self._regions: _TeachersRegions | None = None
        # The judged detections in the test images, by network, until the next step changes the network.
        self._found: dict[Detector, Judged] = {}

    def forget(self) -> None:
        """Forget the detections of networks, because a step changes the networks."""
        self._found.clear()

    def add_teacher(self, teacher: Detector) -> None:
        """Compute the teacher's detections in the test images, with which students are compared from now on."""
        found: list[ImageDetections] = []
        boxes: list[Tensor] = []
        logits, targets, areas = [], [], []
        with eval_mode(teacher):
            for batch in self._batches(self._data.test):
                features = teacher.features(batch.images, batch.sizes)
                seen = teacher.detect(features, batch.sizes)
                found += _in_originals(seen, batch)
                if teacher.two_stage:
                    own = _compared_boxes(batch, seen)
                    boxes += own
                    logits.append(teacher.regions(features, own, batch.sizes).logits)
                    targets.append(label_boxes(own, batch.targets).target)
                    areas += [_areas(part * _scale(batch, number)) for number, part in enumerate(own)]
        self._teacher = judged(Detections.of(found), self._truth)
        if teacher.two_stage:
            joined = (torch.cat(parts).float().cpu().numpy() for parts in (logits, areas))
            self._regions = _TeachersRegions(tuple(boxes), next(joined), torch.cat(targets).cpu().numpy(), next(joined))

    def report(self, network: Detector) -> dict[str, float]:
        """Return metrics of a network's detections in the test images, and in validation images if there are any."""
        detections, agreement = self._predict(network)
        self._found[network] = found = judged(detections, self._truth)
        values = report(found, self._truth, self._teacher) | agreement
        if self._data.val:
            with eval_mode(network):
                batches = self._batches(self._data.val)
                seen = [image for batch in batches for image in _in_originals(_detect(network, batch), batch)]
            values |= validation_report(Detections.of(seen), self._data.ground_truth(self._data.val))
        return values

    def final_report(self, network: Detector) -> dict[str, float]:
        """Return metrics of the errors by kind, and of the teacher."""
        return final_report(self._judged(network), self._truth, self._teacher)

    def per_image(self, network: Detector) -> Mapping[str, NDArray[Any]]:
        """Return counts for each test image, by column."""
        return image_columns(self._judged(network), self._truth, self._teacher)

    def detections(self, network: Detector) -> DetectionTable:
        """Return the objects of the test images, with the detections of network and teacher."""
        return image_detections(self._judged(network), self._truth, self._teacher)

    def _judged(self, network: Detector) -> Judged:
        """Return a network's judged detections in the test images; those of its last report if there are any."""
        if network not in self._found:
            self._found[network] = judged(self._predict(network)[0], self._truth)
        return self._found[network]

    def _predict(self, network: Detector) -> tuple[Detections, dict[str, float]]:
        """Return a network's detections in the test images, and metrics of its agreement with the teacher."""
        compared = self._regions if network.two_stage else None
        found: list[ImageDetections] = []
        logits: list[Tensor] = []
        with eval_mode(network):
            for batch in self._batches(self._data.test):
                features = network.features(batch.images, batch.sizes)
                if compared:
                    own = compared.boxes[len(found) : len(found) + len(batch.sizes)]
                    logits.append(network.regions(features, own, batch.sizes).logits)
                found += _in_originals(network.detect(features, batch.sizes), batch)
        if not compared:
            return Detections.of(found), {}
        students = torch.cat(logits).float().cpu().numpy()
        return Detections.of(found), region_agreement(students, compared.logits, compared.target, compared.area)

    def _batches(self, split: DetectionSplit) -> Generator[DetectionBatch]:
        height, width = self._data.largest
        return self._data.evaluation_batches(split, max(1, _BATCH_PIXELS // (height * width)))


def _detect(network: Detector, batch: DetectionBatch) -> list[ImageDetections]:
    return network.detect(network.features(batch.images, batch.sizes), batch.sizes)


def _compared_boxes(batch: DetectionBatch, seen: Sequence[ImageDetections]) -> list[Tensor]:
    pairs = zip(batch.targets, seen, strict=True)
    return [torch.cat((target.trained.boxes, image.boxes[:_TEACHERS_BOXES])) for target, image in pairs]


def _in_originals(found: Sequence[ImageDetections], batch: DetectionBatch) -> list[ImageDetections]:
    """Return detections with boxes in pixels of the original images."""
    return [
        ImageDetections(image.boxes * _scale(batch, number), image.labels, image.scores)
        for number, image in enumerate(found)
    ]


def _scale(batch: DetectionBatch, number: int) -> Tensor:
    """Return by what box coordinates (4,) of a network's image are multiplied for the original image."""
    (height, width), (original_height, original_width) = batch.sizes[number], batch.originals[number]
    x, y = original_width / width, original_height / height
    return torch.tensor([x, y, x, y], device=batch.images.device)


def _areas(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).prod(1)
