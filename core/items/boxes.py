"""Boxes in the images of a split: the labelled objects, and what a detector found. Free of torch.

Boxes are (left, top, right, bottom) in pixels of the original image. Class 0 is the background; objects have the
classes 1 to K.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

SMALL, MEDIUM = 32.0**2, 96.0**2
"""Largest areas of small and of medium objects in COCO."""


class ImageTensors(Protocol):
    """What a detector found in one image: tensors ``boxes`` (d, 4), ``labels`` (d,) and ``scores`` (d,)."""

    @property
    def boxes(self) -> Any: ...
    @property
    def labels(self) -> Any: ...
    @property
    def scores(self) -> Any: ...


@dataclass(frozen=True)
class Detections:
    """What a detector found in all images of a split.

    Attributes:
        image: (D,) int64, the index of each detection's image in the split; ascending.
        boxes: (D, 4) float32.
        labels: (D,) int64, 1 to K.
        scores: (D,) float32; descending within an image.
    """

    image: NDArray[np.int64]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]

    @classmethod
    def of(cls, images: Sequence[ImageTensors]) -> Detections:
        """Return the detections of the images of a split, in its order, with boxes of the original images."""
        count = [len(image.scores) for image in images]

        def joined(name: str, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
            arrays = [getattr(image, name).detach().cpu().numpy() for image in images]
            return np.concatenate([np.empty(shape, dtype), *arrays]).astype(dtype)

        return cls(
            np.repeat(np.arange(len(images), dtype=np.int64), count),
            joined("boxes", (0, 4), np.float32),
            joined("labels", (0,), np.int64),
            joined("scores", (0,), np.float32),
        )

    def __len__(self) -> int:
        return len(self.image)

    def part(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> Detections:
        """Return some of the detections."""
        return Detections(self.image[chosen], self.boxes[chosen], self.labels[chosen], self.scores[chosen])

    def best(self, count: int, least: float = 0.0) -> Detections:
        """Return the ``count`` best detections of each image among those with a score of at least ``least``."""
        kept = self.part(self.scores >= least)
        first = np.searchsorted(kept.image, kept.image)
        return kept.part(np.arange(len(kept)) - first < count)


@dataclass(frozen=True)
class GroundTruth:
    """The labelled objects of all images of a split.

    Attributes:
        image: (M,) int64, the index of each object's image in the split; ascending.
        boxes: (M, 4) float32.
        labels: (M,) int64, 1 to K.
        ignored: (M,) bool, crowds and difficult objects: they are not counted as missed, and what is found there is not
            counted as false.
        area: (M,) float32, the area that decides the size of an object: that of its mask if the data set has one,
            else that of its box.
        images: The number of images of the split.
        classes: The names of the classes 1 to K.
        ids: (images,) int64, the images' ids in their data set; their indices if it has none.
        crowd: (M,) bool, which of the ignored are crowds: they match any number of detections, by the share of the
            detection that is inside. None: none of them.
        names: The names of the images' files, relative to the folder of the data set; empty if they are no files.
        sizes: (images, 2) int64, height and width of the original images; None if they are unknown.
    """

    image: NDArray[np.int64]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    ignored: NDArray[np.bool_]
    area: NDArray[np.float32]
    images: int
    classes: tuple[str, ...]
    ids: NDArray[np.int64]
    crowd: NDArray[np.bool_] | None = None
    names: tuple[str, ...] = ()
    sizes: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.image)

    @property
    def crowds(self) -> NDArray[np.bool_]:
        """Which objects are crowds, (M,)."""
        return np.zeros(len(self), np.bool_) if self.crowd is None else self.crowd & self.ignored


def areas(boxes: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the areas of boxes (n, 4)."""
    sides = boxes[:, 2:].astype(np.float64) - boxes[:, :2]
    return sides[:, 0] * sides[:, 1]


def size_of(area: NDArray[np.floating]) -> NDArray[np.int64]:
    """Return 0 for small, 1 for medium and 2 for large areas (n,). An area at a bound belongs to the smaller size."""
    return np.searchsorted((SMALL, MEDIUM), area)


def overlaps(
    boxes: NDArray[np.float32], objects: NDArray[np.float32], crowd: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """Return the intersection over union of boxes (n, 4) with objects (m, 4), (n, m) float64.

    Equal in every bit to pycocotools, whose boxes have a width and a height. For a crowd the union is the box.
    """
    box, other = boxes.astype(np.float64), objects.astype(np.float64)
    size, other_size = box[:, 2:] - box[:, :2], other[:, 2:] - other[:, :2]
    ends, other_ends = box[:, :2] + size, other[:, :2] + other_size
    sides = np.minimum(ends[:, None], other_ends) - np.maximum(box[:, None, :2], other[:, :2])
    inside = np.where((sides > 0).all(2), sides[..., 0] * sides[..., 1], 0.0)
    area, other_area = size[:, 0] * size[:, 1], other_size[:, 0] * other_size[:, 1]
    union = area[:, None] + other_area - inside
    if crowd is not None:
        union = np.where(crowd, area[:, None], union)
    return np.divide(inside, union, out=np.zeros_like(inside), where=inside > 0)
