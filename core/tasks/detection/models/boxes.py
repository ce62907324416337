"""Anchors, and the forms in which torchvision takes and returns boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from core.tasks.detection.types import ImageDetections, ImageTargets


def anchors_of(generator: Any, maps: Sequence[Tensor], canvas: Tensor, count: int) -> list[Tensor]:
    """Return the anchors (A, 4) float32 of each image, which are the same for all.

    Args:
        generator: A generator of torchvision.
        maps: The levels.
        canvas: (2,), the padded height and width of the images.
        count: The number of images.
    """
    # The generators read only shape, dtype and device; that of the maps could be bfloat16, which rounds pixels.
    one = torch.zeros((), device=maps[0].device)
    height, width = canvas.tolist()
    images = ImageList(one.expand(1, 1, height, width), [(height, width)])
    anchors: Tensor = generator(images, [one.expand(level.shape) for level in maps])[0]
    return [anchors] * count


class ExactAnchors(AnchorGenerator):  # type: ignore[misc]
    """Anchors as in detectron2: not rounded to pixels, and with the strides of the network.

    torchvision divides the image's side by the map's, which differs where the side is no multiple of the stride.

    Args:
        sizes: The sides of the anchors of each level.
        aspect_ratios: Their heights as multiples of their widths.
        strides: The stride of each level.
    """

    def __init__(
        self, sizes: Sequence[Sequence[float]], aspect_ratios: Sequence[Sequence[float]], strides: Sequence[int]
    ) -> None:
        super().__init__(tuple(map(tuple, sizes)), tuple(map(tuple, aspect_ratios)))
        self._strides = tuple(strides)

    def generate_anchors(
        self,
        scales: Any,
        aspect_ratios: Any,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Return the anchors of one position, with their centre at 0: for each side, those of each aspect ratio."""
        sides = torch.as_tensor(scales, dtype=dtype, device=device)
        roots = torch.as_tensor(aspect_ratios, dtype=dtype, device=device).sqrt()
        widths = (sides[:, None] / roots[None, :]).flatten()
        heights = (sides[:, None] * roots[None, :]).flatten()
        return torch.stack([-widths, -heights, widths, heights], dim=1) / 2

    def forward(self, image_list: Any, feature_maps: list[Tensor]) -> list[Tensor]:
        """Return the anchors of each image."""
        self.set_cell_anchors(feature_maps[0].dtype, feature_maps[0].device)
        grids = [tuple(level.shape[-2:]) for level in feature_maps]
        anchors = torch.cat(self.grid_anchors(grids, [[stride, stride] for stride in self._strides]))
        return [anchors] * len(image_list.image_sizes)


def as_dicts(targets: Sequence[ImageTargets]) -> list[dict[str, Tensor]]:
    """Return the objects that are trained, as torchvision takes them."""
    return [{"boxes": image.boxes, "labels": image.labels} for image in (target.trained for target in targets)]


def image_numbers(boxes: Sequence[Tensor]) -> Tensor:
    """Return the index of each box's image (R,) int64."""
    counts = torch.tensor([len(part) for part in boxes], device=boxes[0].device)
    return torch.arange(len(boxes), device=boxes[0].device).repeat_interleave(counts)


def as_detections(images: Sequence[Mapping[str, Tensor]]) -> list[ImageDetections]:
    """Return torchvision's detections without those of the background."""
    found = []
    for image in images:
        kept = image["labels"] > 0
        found.append(ImageDetections(*(image[name][kept].detach() for name in ("boxes", "labels", "scores"))))
    return found
