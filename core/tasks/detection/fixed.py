"""Fixed boxes: the same number for each view of an image, whose teacher logits are vectors that can be kept on disk.

Some of them are labelled boxes, moved and scaled a little; the others are proposals of the teacher. They depend on the
view alone, so that each method of an experiment is compared on the same boxes.

Kept vectors are rounded to float16 around their mean (``core.train.quantization``). Box coordinates must survive this
exactly, because the student's head runs on them: they are on a grid of 4,096 cells per side of the padded image, in two
digits to the base 64, of which each is exact after rounding to the next integer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from core.specs.regions import RegionOptions
from core.tasks.detection.data.draws import HashedDraws
from core.tasks.detection.types import DetectionBatch, Draws

BOXES = "regions:boxes"
"""Name of the kept vectors with the boxes, beside those with the logits."""
OFFSETS = "regions:offsets"
"""Name of the kept vectors with the offsets, for methods that compare boxes."""
VECTORS = (BOXES, OFFSETS)
_BASE = 64
_CELLS = _BASE * _BASE - 1


@dataclass(frozen=True)
class FixedBoxes:
    """How fixed boxes are drawn.

    Attributes:
        options: Their number N and how labelled boxes are moved.
    """

    options: RegionOptions

    def draw(self, batch: DetectionBatch, proposals: Sequence[Tensor]) -> Tensor:
        """Return the boxes (B, N, 4) on the grid; boxes of no area where an image has too few.

        Args:
            batch: The images with their objects.
            proposals: The teacher's proposals (n, 4) for each image, best first.
        """
        draws = HashedDraws(batch.keys, batch.images.device)
        images = [
            self._draw_image(target.trained.boxes, own, draws, number)
            for number, (target, own) in enumerate(zip(batch.targets, proposals, strict=True))
        ]
        return on_grid(torch.stack(images), batch.images.shape[-2:])

    def _draw_image(self, objects: Tensor, proposals: Tensor, draws: Draws, image: int) -> Tensor:
        count = self.options.fixed_count
        wanted = round(count * self.options.jitter_share) if len(proposals) else count
        moved = self._moved(objects, wanted, draws, image) if len(objects) else objects
        found = torch.cat((moved, proposals[: count - len(moved)].to(moved)))
        return torch.cat((found, found.new_zeros(count - len(found), 4)))

    def _moved(self, objects: Tensor, count: int, draws: Draws, image: int) -> Tensor:
        """Return copies of labelled boxes, equally many of each, moved and scaled."""
        options, numbers = self.options, draws.uniform(image, "fixed boxes", 4 * count).view(count, 4)
        shifts, powers = torch.split((2 * numbers - 1).to(objects.device), 2, dim=1)
        own = objects[torch.arange(count, device=objects.device) % len(objects)]
        size = own[:, 2:] - own[:, :2]
        centre = own[:, :2] + size / 2 + shifts * options.jitter_shift * size
        half = size / 2 * (1 + options.jitter_scale) ** powers
        return torch.cat((centre - half, centre + half), 1)


def on_grid(boxes: Tensor, size: Sequence[int]) -> Tensor:
    """Return boxes (…, 4) whose corners are on the grid of a padded image, inside it.

    Args:
        boxes: In pixels.
        size: Height and width of the padded image.
    """
    cell = _cell(size, boxes)
    return (boxes / cell).round().clamp(0, _CELLS) * cell


def encode_boxes(boxes: Tensor, size: Sequence[int]) -> Tensor:
    """Return boxes (B, N, 4) on the grid as vectors (B, 8·N) that survive the rounding of kept vectors exactly."""
    place = (boxes / _cell(size, boxes)).round()
    high = (place / _BASE).floor()
    return torch.cat((high, place - high * _BASE), -1).flatten(1)


def decode_boxes(vectors: Tensor, size: Sequence[int]) -> Tensor:
    """Return the boxes (B, N, 4) of ``encode_boxes``."""
    high, low = vectors.round().view(len(vectors), -1, 2, 4).unbind(2)
    return (high * _BASE + low) * _cell(size, vectors)


def _cell(size: Sequence[int], like: Tensor) -> Tensor:
    height, width = size
    return torch.tensor([width, height, width, height], dtype=torch.float32, device=like.device) / _CELLS
