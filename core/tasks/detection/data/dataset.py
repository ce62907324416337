"""A detection data set: images of unequal size with boxes, and the batches drawn from them.

The order of the samples is that of classification (``core.tasks.hashing.permutation``). Order and
views are pure functions of (data seed, epoch, sample), computed on the CPU. So two methods with the same data seed see
the same images and boxes, on any device and any number of ranks. A resumed run continues with the batches that the
interrupted run would have drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.catalog.augmentations import STANDARD
from core.specs.augment import Augment
from core.tasks.detection.data.batches import Part, stream
from core.tasks.detection.data.objects import Objects
from core.tasks.detection.data.resizing import ResizeRule, padded
from core.tasks.detection.data.views import View, plain_view, training_view
from core.tasks.detection.types import DetectionBatch, GroundTruth, Size
from core.tasks.hashing import permutation


@dataclass(frozen=True)
class DetectionSplit:
    """The images of a split and their objects.

    Attributes:
        pixels: (bytes,) uint8, in memory or a memory map: the images one after the other, each (3, height, width).
        offsets: (N,) int64, the first byte of each image.
        stored: (N, 2) int64, heights and widths of the images in ``pixels``.
        originals: (N, 2) int64, heights and widths of the images in their files, to which the boxes refer.
        objects: the objects.
        ids: (N,) int64, the images' ids in their data set; their numbers where it has none.
        paths: The files, relative to the folder of the data set; empty if the images are computed.
    """

    pixels: Tensor
    offsets: NDArray[np.int64]
    stored: NDArray[np.int64]
    originals: NDArray[np.int64]
    objects: Objects
    ids: NDArray[np.int64]
    paths: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.offsets)

    def image(self, number: int) -> Tensor:
        """Return an image (3, height, width) uint8 as it is stored, without a copy."""
        height, width = (int(side) for side in self.stored[number])
        first = int(self.offsets[number])
        return self.pixels[first : first + 3 * height * width].view(3, height, width)

    def subset(self, rows: NDArray[np.int64]) -> DetectionSplit:
        """Return some of the images, which share ``pixels`` with the others."""
        return replace(
            self,
            offsets=self.offsets[rows],
            stored=self.stored[rows],
            originals=self.originals[rows],
            objects=self.objects.subset(rows),
            ids=self.ids[rows],
            paths=tuple(self.paths[row] for row in rows) if self.paths else (),
        )


@dataclass(frozen=True)
class DetectionData:
    """The splits of a detection set.

    Attributes:
        train: Training images.
        test: Test images.
        classes: The names of the classes 1 to K; class 0 is the background.
        resize: The size in which a network sees the images.
        flip: Whether a mirrored image is one of the same kind.
        category_ids: The ids of the classes 1 to K in the data set, for results in its own format.
        val: Validation images held out of the training images if the spec requests it; never part of ``train``.
        pack_key: Key of the pack that the images are mapped from; "" if they are in memory.
        content_hash: See ``core.tasks.detection.data.packing.Pack``; "" if the images are in memory.
        canvas: Height and width to which every batch is padded; None for the least multiples of 32 that its images
            fit in.
        device: The device of the batches. The stored images stay where they are.
    """

    train: DetectionSplit
    test: DetectionSplit
    classes: tuple[str, ...]
    resize: ResizeRule
    flip: bool
    category_ids: tuple[int, ...]
    val: DetectionSplit | None = None
    pack_key: str = ""
    content_hash: str = ""
    canvas: Size | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def num_classes(self) -> int:
        """C = K + 1, the width of the logits: the classes and the background."""
        return len(self.classes) + 1

    @property
    def largest(self) -> Size:
        """Height and width to which a batch of all images would be padded, without augmentation."""
        sizes = self.resize.sizes(np.concatenate((self.train.originals, self.test.originals)))
        return padded(sizes, self.canvas)

    def to(self, device: torch.device) -> DetectionData:
        """Return the data set with its batches on a device."""
        return replace(self, device=device)

    def ground_truth(self, split: DetectionSplit) -> GroundTruth:
        """Return the objects of a split, in pixels of the original images."""
        objects = split.objects
        return GroundTruth(
            image=objects.image,
            boxes=objects.boxes,
            labels=objects.labels,
            ignored=objects.ignored,
            area=objects.area,
            images=len(split),
            classes=self.classes,
            ids=split.ids,
            crowd=objects.crowd,
            names=split.paths,
            sizes=split.originals,
        )

    def batches(
        self,
        batch_size: int,
        data_seed: int,
        epoch: int,
        augment: Augment = STANDARD,
        start: int = 0,
        share: Callable[[int], slice] = slice,
    ) -> Generator[DetectionBatch]:
        """Yield the training batches of one epoch; the last one may be smaller.

        Images are read ahead by a thread, which ends with the iterator. A batch is padded to the same size on all
        ranks, because the padding reaches the features at the border.

        Args:
            batch_size: Images per batch over all ranks.
            data_seed: Seed of order, augmentation and ``DetectionBatch.keys``.
            epoch: Counts from 0.
            augment: The augmentations that are applied, as a validated spec has them.
            start: Number of the first batch to yield.
            share: Maps the size of a batch to the slice of it that this rank trains on; by default the whole batch.

        Raises:
            ValueError: An augmentation is not for detection, or an image is larger than ``canvas``.
        """
        view = training_view(self.train.originals, self.resize, self.flip, augment, data_seed, epoch)
        order = permutation(len(self.train), data_seed, epoch)
        return self._stream(self.train, view, order, batch_size, start, share)

    def evaluation_batches(self, split: DetectionSplit, batch_size: int) -> Generator[DetectionBatch]:
        """Yield all images of a split in their order, without augmentation."""
        view = plain_view(split.originals, self.resize)
        return self._stream(split, view, np.arange(len(split)), batch_size)

    def _stream(
        self,
        split: DetectionSplit,
        view: View,
        order: NDArray[np.int64],
        batch_size: int,
        start: int = 0,
        share: Callable[[int], slice] = slice,
    ) -> Generator[DetectionBatch]:
        batches = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
        parts = [
            Part(samples[share(len(samples))], padded(view.shown[samples], self.canvas), len(samples))
            for samples in batches[start:]
        ]
        return stream(split, view, parts, self.device)
