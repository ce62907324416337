"""What passes between the data, the detectors and the metrics of detection.

Boxes are (left, top, right, bottom). Class 0 is the background, as in torchvision; objects have the classes 1 to K, and
C = K + 1 is the width of the logits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from core.items.boxes import Detections, GroundTruth

__all__ = [
    "DetectionBatch",
    "Detections",
    "Draws",
    "GroundTruth",
    "ImageDetections",
    "ImageTargets",
    "Regions",
    "Size",
]

Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True)
class ImageTargets:
    """The labelled objects of one image, in pixels of the image as the network sees it.

    Attributes:
        boxes: (n, 4) float32, inside the image, of positive area.
        labels: (n,) int64, 1 to K.
        ignored: (n,) bool, crowds and difficult objects: they are neither trained on nor counted as missed.
    """

    boxes: Tensor
    labels: Tensor
    ignored: Tensor

    @property
    def trained(self) -> ImageTargets:
        """The objects that a network learns."""
        kept = ~self.ignored
        return ImageTargets(self.boxes[kept], self.labels[kept], self.ignored[kept])

    def to(self, device: torch.device) -> ImageTargets:
        """Return the objects on a device."""
        return ImageTargets(self.boxes.to(device), self.labels.to(device), self.ignored.to(device))


class Draws(Protocol):
    """Random numbers that are a pure function of the view of an image, a purpose and a position.

    So pairs of runs stay pairs, a resumed run draws what it would have drawn, and two ranks draw what one does.
    """

    def uniform(self, image: int, purpose: str, count: int) -> Tensor:
        """Return numbers (count,) float32 in [0, 1) on the device of the batch.

        Args:
            image: The index of the image in the batch.
            purpose: What they decide, such as ``"rpn positive"``; equal purposes give equal numbers.
            count: How many.
        """
        ...


@dataclass(frozen=True)
class DetectionBatch:
    """The images of one optimiser step on one rank, with their objects.

    Attributes:
        images: (B, 3, H, W) float32 in [0, 1], not normalised, padded with 0 on the right and below to a common size.
        sizes: Height and width of each image without the padding.
        originals: Height and width of each image before it was resized.
        targets: The objects of each image.
        index: (B,) int64, the indices of the images in the training split, on the CPU.
        total: The number of images of the step on all ranks.
        keys: (B,) int64 on the CPU, a hash of data seed, epoch and index of each image, from which samplers draw.
        given: For each image, boxes (n, 4) on which student and teacher are compared; None if there are none.
    """

    images: Tensor
    sizes: tuple[Size, ...]
    originals: tuple[Size, ...]
    targets: tuple[ImageTargets, ...]
    index: Tensor
    total: int
    keys: Tensor
    given: tuple[Tensor, ...] | None = None

    @property
    def copies(self) -> int:
        """How often each sample is in the rows; regions are counted by the step itself."""
        return 1

    @property
    def device(self) -> torch.device:
        """Where the images are."""
        return self.images.device

    def part(self, samples: slice) -> DetectionBatch:
        """Return some of the images."""
        return replace(
            self,
            images=self.images[samples],
            sizes=self.sizes[samples],
            originals=self.originals[samples],
            targets=self.targets[samples],
            index=self.index[samples],
            keys=self.keys[samples],
            given=self.given[samples] if self.given else None,
        )

    def tensors(self) -> tuple[Tensor, ...]:
        """Return the images. The objects are of no fixed number, so a step is not recorded and replayed."""
        return (self.images,)

    def with_tensors(self, *tensors: Tensor) -> DetectionBatch:
        """Return the same batch with other images."""
        (images,) = tensors
        return replace(self, images=images)

    def to_memory_format(self, memory_format: torch.memory_format) -> DetectionBatch:
        """Return the batch with its images stored in a memory format."""
        return replace(self, images=self.images.contiguous(memory_format=memory_format))


@dataclass(frozen=True)
class Regions:
    """Boxes of a batch, one image after the other, and what a network says of them.

    Attributes:
        boxes: (R, 4) in pixels of the image as the network sees it, constants.
        image: (R,) int64, the index of each box's image in the batch.
        logits: (R, C).
        offsets: (R, C, 4), how each box is to be moved, in the units of torchvision's box coder. A detector whose
            offsets do not depend on the class repeats them.
        labels: (R,) int64, 0 for background; None if the boxes were not matched with objects.
        offset_target: (R, 4), the offsets to the matched object; 0 for background. None without labels.
        weight: (R,) float32, the weight of each box in the classification loss; None for ones.
    """

    boxes: Tensor
    image: Tensor
    logits: Tensor
    offsets: Tensor
    labels: Tensor | None = None
    offset_target: Tensor | None = None
    weight: Tensor | None = None

    def split(self, images: int) -> list[Tensor]:
        """Return the boxes (n, 4) of each image.

        Args:
            images: The number of images.
        """
        return list(torch.split(self.boxes, torch.bincount(self.image, minlength=images).tolist()))


@dataclass(frozen=True)
class ImageDetections:
    """What a detector found in one image, best score first.

    Attributes:
        boxes: (d, 4) float32.
        labels: (d,) int64, 1 to K.
        scores: (d,) float32 in [0, 1].
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor
