"""Images, objects and random numbers for tests of detectors, and torchvision's own pass through a network."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign

from core.tasks.detection.models import Detector
from core.tasks.detection.types import ImageTargets, Size

SIZES: tuple[Size, ...] = ((96, 128), (128, 100), (128, 128))
_OBJECTS: tuple[tuple[list[list[float]], list[int], list[bool]], ...] = (
    ([[10.0, 8.0, 44.0, 50.0], [60.0, 30.0, 95.0, 90.0], [100.0, 10.0, 127.0, 40.0]], [1, 3, 2], [False, False, True]),
    ([], [], []),
    ([[5.0, 70.0, 60.0, 120.0], [64.0, 64.0, 88.0, 90.0]], [2, 1], [False, False]),
)


class KeyedDraws:
    """Random numbers that are a function of an image's key, a purpose and a position.

    Args:
        keys: The key of each image of the batch.
    """

    def __init__(self, keys: Sequence[int]) -> None:
        self.keys = tuple(keys)

    def uniform(self, image: int, purpose: str, count: int) -> Tensor:
        seed = zlib.crc32(f"{self.keys[image]} {purpose}".encode())
        return torch.rand(count, generator=torch.Generator().manual_seed(seed))


def images(sizes: Sequence[Size] = SIZES, seed: int = 0) -> Tensor:
    """Return padded images (B, 3, H, W)."""
    batch = torch.zeros(len(sizes), 3, max(height for height, _ in sizes), max(width for _, width in sizes))
    generator = torch.Generator().manual_seed(seed)
    for image, (height, width) in zip(batch, sizes, strict=True):
        image[:, :height, :width] = torch.rand(3, height, width, generator=generator)
    return batch


def targets() -> tuple[ImageTargets, ...]:
    """Return the objects of three images: one is ignored, and the second image has none."""
    return tuple(
        ImageTargets(
            torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
            torch.tensor(labels, dtype=torch.int64),
            torch.tensor(ignored, dtype=torch.bool),
        )
        for boxes, labels, ignored in _OBJECTS
    )


def given_to_torchvision(batch: Tensor, sizes: Sequence[Size]) -> list[Tensor]:
    """Return the images without their padding."""
    return [image[:, :height, :width] for image, (height, width) in zip(batch, sizes, strict=True)]


def objects_for_torchvision(objects: Sequence[ImageTargets]) -> list[dict[str, Tensor]]:
    """Return the objects that are trained."""
    return [{"boxes": image.boxes[~image.ignored], "labels": image.labels[~image.ignored]} for image in objects]


class WithoutResizing(GeneralizedRCNNTransform):  # type: ignore[misc]
    """torchvision's normalisation and padding."""

    def resize(self, image: Tensor, target: Any = None) -> tuple[Tensor, Any]:
        return image, target


def reference(detector: Detector) -> Any:
    """Return the torchvision network in a detector, which then takes images in torchvision's way."""
    network: Any = detector.network
    mean, std = detector.mean.flatten().tolist(), detector.std.flatten().tolist()
    network.transform = WithoutResizing(1, 1, mean, std, size_divisible=1)
    if detector.two_stage:
        own = network.roi_heads.box_roi_pool
        size = own.map_levels.s0
        network.roi_heads.box_roi_pool = MultiScaleRoIAlign(own.featmap_names, own.output_size, 2, canonical_scale=size)
    return network
