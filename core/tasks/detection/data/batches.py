"""Batches of images of unequal size: read ahead by a thread, then resized, cropped and padded on the device."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.tasks.classification.data.prefetch import prefetch
from core.tasks.classification.data.transfer import upload
from core.tasks.detection.data.objects import Objects
from core.tasks.detection.data.resizing import padded
from core.tasks.detection.data.views import View
from core.tasks.detection.types import DetectionBatch, ImageTargets, Size

if TYPE_CHECKING:
    from core.tasks.detection.data.dataset import DetectionSplit


@dataclass(frozen=True)
class Part:
    """The images of one batch that a rank trains on.

    Attributes:
        samples: (B,) their numbers in the split.
        size: Height and width of the batch, which also hold the images of the other ranks.
        total: The number of images on all ranks.
    """

    samples: NDArray[np.int64]
    size: Size
    total: int


def stream(split: DetectionSplit, view: View, parts: Sequence[Part], device: torch.device) -> Generator[DetectionBatch]:
    """Yield the batch of each part on a device."""

    def read(part: Part) -> Tensor:
        return _read(split, view, part, pinned=device.type == "cuda")

    with contextlib.closing(prefetch(read, parts)) as stored_images:
        for part, stored in zip(parts, stored_images, strict=True):
            yield _batch(split, view, part, stored.to(device, non_blocking=True))


def _read(split: DetectionSplit, view: View, part: Part, *, pinned: bool) -> Tensor:
    """Return the stored images, mirrored where the view is, padded to one size: (B, 3, H, W) uint8.

    It runs in a background thread: NumPy copies without Python's lock and without torch's threads, which would come in
    addition to the training threads.
    """
    samples = part.samples
    size = part.size if view.as_stored(split.stored, samples) else padded(split.stored[samples])
    images = torch.zeros((len(samples), 3, *size), dtype=torch.uint8, pin_memory=pinned)
    array = images.numpy()
    for place, sample in enumerate(samples):
        image = split.image(int(sample)).numpy()
        _, height, width = image.shape
        array[place, :, :height, :width] = image[:, :, ::-1] if view.flipped[sample] else image
    return images


def _batch(split: DetectionSplit, view: View, part: Part, stored: Tensor) -> DetectionBatch:
    samples, device = part.samples, stored.device
    shown = view.shown[samples]
    if view.as_stored(split.stored, samples):
        images = _unit_range(stored)
    else:
        images = torch.zeros((len(samples), 3, *part.size), device=device)
        for place, sample in enumerate(samples):
            inside = view.resize_and_crop(_unit_range(stored[place : place + 1]), split.stored[sample], int(sample))
            images[place, :, : inside.shape[-2], : inside.shape[-1]] = inside[0]
    for place, (sample, (high, wide)) in enumerate(zip(samples, shown, strict=True)):
        inside = images[place, :, :high, :wide]
        for augmentation, table in view.colours:
            inside.copy_(augmentation.apply(inside, table[sample]))
    return DetectionBatch(
        images=images,
        sizes=_sizes(shown),
        originals=_sizes(split.originals[samples]),
        targets=_targets(split, view, samples, device),
        index=torch.from_numpy(samples.copy()),
        total=part.total,
        keys=torch.from_numpy(view.keys[samples]),
    )


def _unit_range(images: Tensor) -> Tensor:
    """Return uint8 images as float32 in [0, 1].

    The divisor is a tensor because CUDA divides by a Python number by multiplying with its inverse, which rounds
    differently.
    """
    return images.to(torch.float32).div_(torch.full((), 255.0, device=images.device))


def _sizes(sizes: NDArray[np.int64]) -> tuple[Size, ...]:
    return tuple((int(height), int(width)) for height, width in sizes)


def _targets(
    split: DetectionSplit, view: View, samples: NDArray[np.int64], device: torch.device
) -> tuple[ImageTargets, ...]:
    """Return the objects of each image in pixels of its view. All are moved to the device at once."""
    found = Objects.joined(
        [view.objects(split.objects.of(int(sample)), split.originals[sample], int(sample)) for sample in samples]
    )
    counts = np.diff(found.first).tolist()
    columns = (torch.split(upload(column, device), counts) for column in (found.boxes, found.labels, found.ignored))
    return tuple(ImageTargets(*row) for row in zip(*columns, strict=True))
