"""The regions of a step as rows: which boxes student and teacher are compared on, and which labels these have.

The student's own training has its sampled boxes. ``boxes`` of the spec decides where the networks are compared:

- ``student``: on the sampled boxes. The teacher's head runs on them, with the teacher's features.
- ``teacher``: on the teacher's proposals for the view; the sampled boxes are for the labels alone.
- ``union``: on both.
- ``fixed``: on labelled boxes, jittered, and the teacher's proposals, which are drawn once for each view. What the
  teacher says of them can be kept, because nothing of it depends on the student: see ``core.tasks.detection.fixed``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import box_iou

from core.distill.objective import Objects
from core.distill.rows import Rows
from core.tasks.detection.types import DetectionBatch, ImageTargets, Regions

_CODER = BoxCoder((10.0, 10.0, 5.0, 5.0))  # torchvision's box head

OBJECT_IOU = 0.5
"""A box that overlaps an object by this much has its class, as in the box head's own training."""


@dataclass(frozen=True)
class RegionOutputs:
    """What a detector says of the boxes of a batch.

    Attributes:
        sampled: Of the boxes that its own training has chosen; None in eval mode and for a detector without them.
        given: Of the boxes of ``DetectionBatch.given``; None without any.
        logits: (R, C), of the sampled boxes and then of the given ones.
        offsets: (R, C, 4), in the same order.
    """

    sampled: Regions | None
    given: Regions | None
    logits: Tensor
    offsets: Tensor

    @classmethod
    def join(cls, sampled: Regions | None, given: Regions | None, num_classes: int, like: Tensor) -> RegionOutputs:
        """Return the regions with their logits and offsets joined.

        Args:
            sampled: See above.
            given: See above.
            num_classes: C.
            like: A tensor on the device, for a detector without regions.
        """
        parts = [part for part in (sampled, given) if part is not None]
        logits = [part.logits for part in parts] or [like.new_zeros(0, num_classes)]
        offsets = [part.offsets for part in parts] or [like.new_zeros(0, num_classes, 4)]
        return cls(sampled, given, torch.cat(logits), torch.cat(offsets))


@dataclass(frozen=True)
class Labels:
    """The labels of boxes.

    Attributes:
        target: (R,) int64, 0 for background.
        matched: (R, 4), the box of the matched object; the box itself for background.
        weight: (R,) float32, 0 for a box on an object that is ignored and for one without an area, else 1.
    """

    target: Tensor
    matched: Tensor
    weight: Tensor


def label_boxes(boxes: Sequence[Tensor], targets: Sequence[ImageTargets]) -> Labels:
    """Return the labels of boxes: the class of the object that a box overlaps most, if by ``OBJECT_IOU`` or more.

    Args:
        boxes: (n, 4) of each image.
        targets: The objects of each image.
    """
    parts = [_label_image(own, target) for own, target in zip(boxes, targets, strict=True)]
    return Labels(*(torch.cat([getattr(part, name) for part in parts]) for name in ("target", "matched", "weight")))


def _label_image(boxes: Tensor, target: ImageTargets) -> Labels:
    none = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    weight = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1).float()
    if not len(target.labels) or not len(boxes):
        return Labels(none, boxes, weight)
    overlap, number = box_iou(boxes, target.boxes.to(boxes.dtype)).max(1)
    is_object = overlap >= OBJECT_IOU
    ignored = is_object & target.ignored[number]
    labels = torch.where(is_object & ~ignored, target.labels[number], none)
    matched = torch.where((labels > 0).unsqueeze(1), target.boxes[number].to(boxes.dtype), boxes)
    return Labels(labels, matched, torch.where(ignored, 0.0, weight))


def region_rows(
    student: RegionOutputs, teacher_logits: Tensor | None, given: Labels | None, *, compares_sampled: bool
) -> Rows:
    """Return the regions as rows.

    The cross-entropy is of the sampled boxes alone. The other terms are of the boxes that are compared.

    Args:
        student: What the student says of them.
        teacher_logits: (R, C), the teacher's logits of the same regions in the same order; None without a teacher.
        given: The labels of the given boxes; None without any.
        compares_sampled: Whether the teacher is compared on the sampled boxes.
    """
    sampled = student.sampled
    if sampled is not None and given is None and compares_sampled:
        assert sampled.labels is not None
        return Rows(student.logits, teacher_logits, sampled.labels, sampled.weight)
    ones = student.logits.new_ones(0 if sampled is None else len(sampled.logits), dtype=torch.float32)
    own = ones if sampled is None or sampled.weight is None else sampled.weight
    of_given = ones.new_zeros(0) if given is None else given.weight
    target = torch.cat(
        [
            labels
            for labels in (None if sampled is None else sampled.labels, None if given is None else given.target)
            if labels is not None
        ]
        or [torch.zeros(0, dtype=torch.int64, device=student.logits.device)]
    )
    weight = torch.cat((own if compares_sampled else torch.zeros_like(own), of_given))
    return Rows(
        student.logits, teacher_logits, target, weight, label_weight=torch.cat((own, torch.zeros_like(of_given)))
    )


def offset_targets(student: RegionOutputs, given: Labels | None) -> Tensor:
    """Return the offsets (R, 4) from each box to its object, in the units of the box coder; 0 for background."""
    parts = []
    if student.sampled is not None:
        assert student.sampled.offset_target is not None
        parts.append(student.sampled.offset_target)
    if student.given is not None and given is not None:
        offsets = _CODER.encode_single(given.matched, student.given.boxes)
        # A box without an area has no offsets.
        parts.append(torch.where((given.target > 0).unsqueeze(1), offsets, torch.zeros_like(offsets)))
    return torch.cat(parts) if parts else student.offsets.new_zeros(0, 4)


def objects_of(batch: DetectionBatch) -> Objects:
    """Return the objects that a network learns, with boxes as shares of the padded images."""
    height, width = batch.images.shape[-2:]
    trained = [target.trained for target in batch.targets]
    device = batch.images.device
    count = torch.tensor([len(target.labels) for target in trained], device=device)
    image = torch.arange(len(trained), device=device).repeat_interleave(count)
    scale = torch.tensor([width, height, width, height], dtype=torch.float32, device=device)
    boxes = torch.cat([target.boxes for target in trained]).to(device) / scale
    return Objects(image, boxes, torch.cat([target.labels for target in trained]).to(device))
