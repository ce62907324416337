"""Views of images with boxes: which size, part and mirror image a network sees, and where the boxes then are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.catalog.augmentations import Stage
from core.catalog.detection_task import DETECTION
from core.specs.augment import Augment, augmentations_of
from core.tasks.classification.data.augmentations.views import Augmentation
from core.tasks.detection.data.augmentations import ColourAugmentation, Placement, Table
from core.tasks.detection.data.objects import ImageObjects
from core.tasks.detection.data.resizing import ResizeRule, scale_boxes
from core.tasks.hashing import hashed_bits, hashed_randint

VIEWS_VERSION = 1
"""Incremented when the same seeds begin to give other views; cached outputs of a teacher are then no longer read."""


@dataclass(frozen=True)
class View:
    """What a network sees of the N images of a split.

    An image is mirrored, resized and then cropped.

    Attributes:
        placement: Size and crop of each image.
        flipped: (N,) bool.
        keys: (N,) int64, see ``core.tasks.detection.types.DetectionBatch``.
        colours: Augmentations of the colours, one after the other, each with its table (N, columns).
    """

    placement: Placement
    flipped: NDArray[np.bool_]
    keys: NDArray[np.int64]
    colours: Sequence[tuple[ColourAugmentation, Table]] = field(default=(), repr=False)

    @property
    def shown(self) -> NDArray[np.int64]:
        """Heights and widths (N, 2) of what is seen."""
        return self.placement.shown

    def as_stored(self, stored: NDArray[np.int64], samples: NDArray[np.int64]) -> bool:
        """Return whether some images are shown whole and in the size in which they are stored."""
        resized, shown = self.placement.resized[samples], self.placement.shown[samples]
        return bool((resized == stored[samples]).all() and (resized == shown).all())

    def resize_and_crop(self, images: Tensor, stored: NDArray[np.int64], sample: int) -> Tensor:
        """Return the part (1, 3, height, width) that is seen of a sample.

        Args:
            images: (1, 3, H, W) float32, the sample as it is stored, mirrored if it is flipped, and padded.
            stored: (2,), its height and width without the padding.
            sample: Its number.
        """
        images = images[..., : int(stored[0]), : int(stored[1])]
        height, width = (int(side) for side in self.placement.resized[sample])
        if images.shape[-2:] != (height, width):
            images = torch.nn.functional.interpolate(images, (height, width), mode="bilinear", antialias=True)
        (top, left), (high, wide) = self.placement.corner[sample].tolist(), self.shown[sample].tolist()
        return images[..., top : top + high, left : left + wide]

    def objects(self, objects: ImageObjects, original: NDArray[np.int64], sample: int) -> ImageObjects:
        """Return the objects of a sample in pixels of what is seen.

        Boxes are cut off at the border. A box that is not seen is dropped, and so is one of which less than
        ``Placement.min_visible`` is seen.

        Args:
            objects: Its objects, in pixels of the original image.
            original: (2,), height and width of the original image.
            sample: Its number.
        """
        resized, corner, shown = self.placement.resized[sample], self.placement.corner[sample], self.shown[sample]
        whole = scale_boxes(objects.boxes, original, resized)
        if self.flipped[sample]:
            whole[:, [0, 2]] = resized[1] - whole[:, [2, 0]]
        whole -= corner[[1, 0, 1, 0]]
        boxes = whole.clip(0, shown[[1, 0, 1, 0]]).astype(np.float32)
        sides, whole_sides = boxes[:, 2:] - boxes[:, :2], whole[:, 2:] - whole[:, :2]
        seen = (sides > 0).all(axis=1)
        seen &= sides.prod(axis=1) >= self.placement.min_visible * whole_sides.prod(axis=1)
        columns = (boxes, objects.labels, objects.ignored, objects.area, objects.crowd)
        return ImageObjects(*(column[seen] for column in columns))


def plain_view(originals: NDArray[np.int64], rule: ResizeRule) -> View:
    """Return the view of a test: whole images, resized by the rule."""
    size = len(originals)
    keys = hashed_bits(size, 0, 0, "draws of a test").view(np.int64)
    return View(Placement.whole(rule.sizes(originals)), np.zeros(size, bool), keys)


def training_view(
    originals: NDArray[np.int64], rule: ResizeRule, flip: bool, augment: Augment, data_seed: int, epoch: int
) -> View:
    """Return the view of the training images in one epoch.

    Args:
        originals: (N, 2), heights and widths of the images.
        rule: The size in which a network sees an image.
        flip: Whether a mirrored image is one of the same kind.
        augment: The augmentations, as a validated spec has them.
        data_seed: Seed of the draws.
        epoch: Counts from 0.

    Raises:
        ValueError: An augmentation is not for detection.
    """
    size = len(originals)
    placement: Placement | None = None
    colours: list[tuple[ColourAugmentation, Table]] = []
    own, *others = augmentations_of(augment)
    flips = own.entry.load()(Augmentation(flip=flip)).flip
    for ref in others:
        if DETECTION.name not in ref.entry.tasks:
            raise ValueError(f"{ref.name} is not an augmentation of images with boxes")
        augmentation = ref.entry.load()(ref.parsed_params)
        if ref.entry.stage is Stage.SCALE:
            placement = augmentation.place(originals, rule, data_seed, epoch)
        else:
            colours.append((augmentation, augmentation.table(size, data_seed, epoch)))
    return View(
        placement or Placement.whole(rule.sizes(originals)),
        hashed_randint(2, size, data_seed, epoch, "flip") == 1 if flips else np.zeros(size, bool),
        hashed_bits(size, data_seed, epoch, "draws").view(np.int64),
        colours,
    )
