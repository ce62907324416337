"""The labelled objects of many images in a few arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Objects:
    """The objects of N images, one image after the other.

    Attributes:
        first: (N + 1,) int64, the index of each image's first object; the last entry is the number of objects, M.
        boxes: (M, 4) float32, in pixels of the original images.
        labels: (M,) int64, 1 to K.
        ignored: (M,) bool, crowds and difficult objects.
        area: (M,) float32, see ``core.items.boxes.GroundTruth``.
        crowd: (M,) bool, which of the ignored objects are crowds.
    """

    first: NDArray[np.int64]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    ignored: NDArray[np.bool_]
    area: NDArray[np.float32]
    crowd: NDArray[np.bool_]

    @classmethod
    def joined(cls, parts: Sequence[ImageObjects]) -> Objects:
        """Return the objects of several images."""
        counts = [len(part.labels) for part in parts]
        first = np.concatenate(([0], np.cumsum(counts, dtype=np.int64))).astype(np.int64)
        none = ImageObjects.none()
        columns = [
            np.concatenate([getattr(part, field.name) for part in (none, *parts)]) for field in fields(ImageObjects)
        ]
        return cls(first, *columns)

    @property
    def image(self) -> NDArray[np.int64]:
        """The index of each object's image (M,), ascending."""
        return np.repeat(np.arange(len(self.first) - 1, dtype=np.int64), np.diff(self.first))

    @property
    def usable(self) -> int:
        """The number of objects that a network can learn."""
        return int((~self.ignored).sum())

    def of(self, image: int) -> ImageObjects:
        """Return the objects of one image."""
        rows = slice(self.first[image], self.first[image + 1])
        return ImageObjects(*(getattr(self, column.name)[rows] for column in fields(ImageObjects)))

    def subset(self, images: NDArray[np.int64]) -> Objects:
        """Return the objects of some images, in the order of these."""
        return self.joined([self.of(int(image)) for image in images])


@dataclass(frozen=True)
class ImageObjects:
    """The objects of one image; attributes as in ``Objects``."""

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    ignored: NDArray[np.bool_]
    area: NDArray[np.float32]
    crowd: NDArray[np.bool_]

    @classmethod
    def none(cls) -> ImageObjects:
        """Return the objects of an image that shows none."""
        nothing = np.empty(0, bool)
        return cls(np.empty((0, 4), np.float32), np.empty(0, np.int64), nothing, np.empty(0, np.float32), nothing)
