"""Batch norm in the layers of a method, over the rows that have a weight."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.distill.rows import Rows


def row_batch_norm(norm: nn.BatchNorm2d, maps: Tensor, rows: Rows | None) -> Tensor:
    """Return maps after batch norm whose means over the batch are weighted: Σ ω_i·x_i, and Σ ω_i·(x_i − m)².

    Without weights, and in eval mode, it is the batch norm of the layer. A row of weight 0 is not in the statistics.
    A batch of one value, for which torch has no batch norm, is normalised to 0 and does not change the running
    statistics. The batch is that of all ranks, so a method with batch norm has the scope ``batch``.

    Args:
        norm: The layer.
        maps: (B, C, H, W).
        rows: The rows that the maps belong to; None if all have the same weight.
    """
    share = rows.share if rows else None
    if not norm.training or (share is None and maps.numel() > norm.num_features):
        result: Tensor = norm(maps)
        return result
    if share is None:
        share = maps.new_full((len(maps),), 1 / max(len(maps), 1))
    share = share.to(maps.dtype)
    positions = maps.shape[2] * maps.shape[3]
    mean = _weighted(maps, share, positions)
    centred = maps - mean
    variance = _weighted(centred.square(), share, positions)
    _update_running(norm, mean, variance, (share > 0).sum() * positions)
    scale = norm.weight.view(1, -1, 1, 1) * (variance + norm.eps).rsqrt()
    return centred * scale + norm.bias.view(1, -1, 1, 1)


def _weighted(maps: Tensor, share: Tensor, positions: int) -> Tensor:
    """Return the weighted mean over rows, and the mean over positions, (1, C, 1, 1)."""
    return torch.einsum("b,bchw->c", share, maps).view(1, -1, 1, 1) / positions


@torch.no_grad()
def _update_running(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: Tensor) -> None:
    """Include the statistics of a batch with ``count`` values for each channel."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    momentum = torch.where(count > 1, norm.momentum or 0.0, 0.0).to(norm.running_mean.dtype)
    unbiased = variance * (count / (count - 1).clamp(min=1))
    norm.num_batches_tracked += 1
    norm.running_mean.lerp_(mean.flatten().to(momentum.dtype), momentum)
    norm.running_var.lerp_(unbiased.flatten().to(momentum.dtype), momentum)
