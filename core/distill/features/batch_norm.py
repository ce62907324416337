"""Batch norm in the layers of a method, over the rows that have a weight.

The means over the batch are Σ ω_i·x_i and Σ ω_i·(x_i − m)², with ω the part of a mean that belongs to each row, see
``Rows.share``. A row of weight 0 is absent. The batch is that of all ranks, so a method with batch norm has the scope
``batch``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.distill.rows import Rows


class BatchNorm(nn.Module):
    """Batch norm (Ioffe and Szegedy 2015) of maps (B, C, H, W), for layers that are used in training steps alone.

    It has no running statistics. A single number a channel, which has no variance, becomes the bias.

    Args:
        channels: C.
        eps: What is added to the variance.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self._eps = eps

    def forward(self, maps: Tensor, share: Tensor | None = None) -> Tensor:
        """Return the normalised maps.

        Args:
            maps: (B, C, H, W).
            share: (B,), the part of a mean that belongs to each row; None if all are equal.
        """
        if share is None and maps.numel() > maps.shape[1]:
            return F.batch_norm(maps, None, None, self.weight, self.bias, training=True, eps=self._eps)
        centred, _, variance = _centred(maps, _or_equal(share, maps))
        return _scaled(centred, variance + self._eps, self.weight, self.bias)


def row_batch_norm(norm: nn.BatchNorm2d, maps: Tensor, rows: Rows | None) -> Tensor:
    """Return maps after the batch norm of a layer with running statistics, which are those of the rows that count.

    Without weights, and in eval mode, it is what the layer returns. A batch of one value, for which torch has no batch
    norm, is normalised to 0 and does not change the running statistics.

    Args:
        norm: The layer.
        maps: (B, C, H, W).
        rows: The rows that the maps belong to; None if all have the same weight.
    """
    share = rows.share if rows else None
    if not norm.training or (share is None and maps.numel() > norm.num_features):
        result: Tensor = norm(maps)
        return result
    share = _or_equal(share, maps)
    centred, mean, variance = _centred(maps, share)
    _update_running(norm, mean, variance, (share > 0).sum() * maps.shape[2] * maps.shape[3])
    return _scaled(centred, variance + norm.eps, norm.weight, norm.bias)


def _or_equal(share: Tensor | None, maps: Tensor) -> Tensor:
    return maps.new_full((len(maps),), 1 / max(len(maps), 1)) if share is None else share.to(maps.dtype)


def _centred(maps: Tensor, share: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the maps without their means, the means and the variances, both (1, C, 1, 1)."""
    mean = _weighted(maps, share)
    centred = maps - mean
    return centred, mean, _weighted(centred.square(), share)


def _weighted(maps: Tensor, share: Tensor) -> Tensor:
    """Return the weighted mean over rows, and the mean over positions, (1, C, 1, 1)."""
    return torch.einsum("b,bchw->c", share, maps).view(1, -1, 1, 1) / (maps.shape[2] * maps.shape[3])


def _scaled(centred: Tensor, variance: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return centred * (weight.view(1, -1, 1, 1) * variance.rsqrt()) + bias.view(1, -1, 1, 1)


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
