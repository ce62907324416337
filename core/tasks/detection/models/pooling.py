"""The pooling of regions from the levels of a pyramid (RoIAlign)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import scipy.sparse
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torchvision.ops import MultiScaleRoIAlign, roi_align
from torchvision.ops.poolers import LevelMapper

from core.tasks.detection.models.boxes import image_numbers

_CANONICAL_LEVEL = 4
_SAMPLES = 2  # on a side of a cell, as in torchvision's detectors
_ENTRIES = (2 * _SAMPLES) ** 2  # positions of a map in a cell


def region_pool(strides: Mapping[str, int], size: int, canonical_size: float, *, aligned: bool) -> MultiScaleRoIAlign:
    """Return the pooling of regions from the levels of a pyramid.

    Args:
        strides: The stride of each level by its name.
        size: Cells on a side of the pooled map.
        canonical_size: Side in pixels of a region that is pooled from the level of stride 16.
        aligned: Whether to pool as detectron2 does.
    """
    pool = (_AlignedPool if aligned else _Pool)(list(strides), size, sampling_ratio=_SAMPLES)
    # torchvision guesses the scales from its first batch, and keeps them.
    pool.scales = [1 / stride for stride in strides.values()]
    logarithms = [stride.bit_length() - 1 for stride in strides.values()]
    pool.map_levels = LevelMapper(logarithms[0], logarithms[-1], canonical_size, _CANONICAL_LEVEL)
    return pool


class _AlignedPool(MultiScaleRoIAlign):  # type: ignore[misc]
    """RoIAlign as in detectron2: shifted by half a pixel, with as many samples in a cell as it has of the map."""

    def forward(self, x: Mapping[str, Tensor], boxes: list[Tensor], image_shapes: Any) -> Tensor:
        maps = [x[name] for name in self.featmap_names]
        regions = torch.cat([image_numbers(boxes)[:, None].to(boxes[0].dtype), torch.cat(boxes)], dim=1)
        level = self.map_levels(boxes)
        pooled = maps[0].new_zeros((len(regions), maps[0].shape[1], *self.output_size))
        for number, (values, scale) in enumerate(zip(maps, self.scales, strict=True)):
            chosen = torch.where(level == number)[0]
            part = roi_align(values, regions[chosen], self.output_size, scale, sampling_ratio=0, aligned=True)
            pooled = pooled.index_put((chosen,), part.to(pooled.dtype))
        return pooled


class _Pool(MultiScaleRoIAlign):  # type: ignore[misc]
    """torchvision's pooling, which on the CPU is computed as a product with a sparse matrix.

    Each cell is the mean of four interpolated values, so it is a weighted sum of 16 positions of a map. For maps of 32
    channels, product and gradient took a ninth of the time of torchvision's loops on one core.
    """

    def forward(self, x: Mapping[str, Tensor], boxes: list[Tensor], image_shapes: Any) -> Tensor:
        maps = [x[name] for name in self.featmap_names]
        pooled: Tensor
        if maps[0].device.type == "cpu":
            pooled = _pooled_on_cpu(maps, boxes, self.scales, self.map_levels(boxes), self.output_size[0])
        else:
            pooled = super().forward(dict(x), boxes, image_shapes)
        return pooled


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _pooled_on_cpu(
    maps: Sequence[Tensor], boxes: Sequence[Tensor], scales: Sequence[float], level: Tensor, size: int
) -> Tensor:
    """Return the pooled regions (R, channels, size, size).

    Args:
        maps: The levels (B, channels, height, width).
        boxes: (n_i, 4) of each image.
        scales: Pixels of each level for one of the images.
        level: (R,), the level of each region.
        size: Cells on a side.
    """
    batch, channels = maps[0].shape[:2]
    dtype = torch.float64 if maps[0].dtype == torch.float64 else torch.float32
    regions = torch.cat(list(boxes)).to(dtype)
    values = torch.cat([each.permute(0, 2, 3, 1).reshape(-1, channels) for each in maps]).to(dtype)
    heights, widths = (torch.tensor([each.shape[side] for each in maps])[level] for side in (2, 3))
    areas = torch.tensor([each.shape[2] * each.shape[3] for each in maps])
    first = (batch * areas).cumsum(0) - batch * areas
    scale = torch.tensor(scales, dtype=dtype)[level]
    rows, of_rows = _interpolation(regions[:, 1] * scale, regions[:, 3] * scale, heights, size)
    columns, of_columns = _interpolation(regions[:, 0] * scale, regions[:, 2] * scale, widths, size)
    start = first[level] + image_numbers(boxes) * areas[level]
    # (R, cell in y, cell in x, position in y, position in x)
    index = (start[:, None, None] + rows * widths[:, None, None])[:, :, None, :, None] + columns[:, None, :, None, :]
    weight = of_rows[:, :, None, :, None] * of_columns[:, None, :, None, :]
    pooled: Tensor = _SparseProduct.apply(values, index.flatten(), weight.flatten())
    return pooled.view(len(regions), size, size, channels).permute(0, 3, 1, 2).to(maps[0].dtype)


def _interpolation(low: Tensor, high: Tensor, sides: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the positions along one axis that each cell is made of, and their weights, (R, size, 4) each.

    Args:
        low: (R,), where the regions begin, in pixels of their maps.
        high: (R,), where they end.
        sides: (R,), the sides of the maps.
        size: Cells on the side.
    """
    step = ((high - low).clamp(min=1) / size)[:, None, None]
    cell = torch.arange(size, dtype=low.dtype)[None, :, None]
    sample = torch.arange(_SAMPLES, dtype=low.dtype)[None, None, :] + 0.5
    sampled = low[:, None, None] + cell * step + sample * step / _SAMPLES
    place = sampled.clamp(min=0)
    last = (sides - 1)[:, None, None]
    before = place.floor().to(torch.int64).clamp(max=last)
    after = (before + 1).clamp(max=last)
    share = torch.where(before < last, place - before, torch.zeros_like(place))
    positions = torch.stack([before, after], dim=3).flatten(2)
    # A region has at least one pixel of the map, so it can reach beyond the border. One pixel beyond it the map is 0.
    inside = ((sampled >= -1) & (sampled <= last + 1)).to(place.dtype) / _SAMPLES
    return positions, torch.stack([(1 - share) * inside, share * inside], dim=3).flatten(2)


class _SparseProduct(torch.autograd.Function):
    """The product of a constant sparse matrix, with 16 entries in each row, and a dense one.

    By SciPy: torch's product with the transpose, which is the gradient, took nine times as long.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, index: Tensor, weight: Tensor) -> Tensor:
        rows = len(index) // _ENTRIES
        ends = torch.arange(0, len(index) + 1, _ENTRIES, dtype=torch.int32)
        parts = (weight.numpy(), index.to(torch.int32).numpy(), ends.numpy())
        ctx.matrix = scipy.sparse.csr_matrix(parts, shape=(rows, len(values)))
        return torch.from_numpy(ctx.matrix @ values.detach().numpy())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return torch.from_numpy(ctx.matrix.T @ gradient.contiguous().numpy()), None, None
