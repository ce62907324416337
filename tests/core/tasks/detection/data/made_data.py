"""Detection data of random images of unequal size, made in memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from core.tasks.detection.data import DetectionData, DetectionSplit
from core.tasks.detection.data.objects import ImageObjects, Objects
from core.tasks.detection.data.resizing import ResizeRule

SIZES = ((40, 60), (64, 48), (90, 30), (33, 33), (50, 100))
"""Heights and widths, which are repeated."""


def made_split(count: int, sizes: Sequence[tuple[int, int]] = SIZES, seed: int = 0) -> DetectionSplit:
    """Black images with one bright rectangle each, whose box is exact. Every fourth image is empty."""
    random = np.random.default_rng(seed)
    originals = np.array([sizes[number % len(sizes)] for number in range(count)], dtype=np.int64)
    pixels, objects = [], []
    for number, (height, width) in enumerate(originals):
        image = np.zeros((3, height, width), np.uint8)
        found = ImageObjects.none()
        if number % 4 != 3:
            left, top = int(random.integers(width - 12)), int(random.integers(height - 12))
            right, bottom = int(random.integers(left + 8, width + 1)), int(random.integers(top + 8, height + 1))
            image[:, top:bottom, left:right] = 255
            box = np.array([[left, top, right, bottom]], np.float32)
            label = np.array([1 + number % 2], np.int64)
            area = np.array([(right - left) * (bottom - top)], np.float32)
            found = ImageObjects(box, label, np.array([number % 8 == 6]), area, np.array([False]))
        pixels.append(image.ravel())
        objects.append(found)
    lengths = [len(part) for part in pixels]
    return DetectionSplit(
        torch.from_numpy(np.concatenate(pixels)),
        np.cumsum([0, *lengths[:-1]]).astype(np.int64),
        stored=originals,
        originals=originals,
        objects=Objects.joined(objects),
        ids=100 + np.arange(count, dtype=np.int64),
        paths=tuple(f"{number}.png" for number in range(count)),
    )


def made_data(train: int = 22, test: int = 7, rule: tuple[int, int] = (48, 80), flip: bool = True) -> DetectionData:
    """A data set of such images with two classes."""
    return DetectionData(
        made_split(train), made_split(test, seed=1), ("one", "two"), ResizeRule(*rule), flip, category_ids=(3, 7)
    )
