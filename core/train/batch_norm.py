"""Batch norm with the statistics of the batch of all ranks.

On GPUs this is torch's own SyncBatchNorm. It refuses tensors on the CPU, so there is a plain implementation for them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from core.errors import TrainingError

_SUPPORTED = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class GlobalBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Works as nn.BatchNorm1d, 2d and 3d; in training mode over the images (N, channels, …) of all ranks.

    N may be 0 on a rank.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"expected (N, channels, …), got {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised images, in the shape and type of ``input``."""
        if not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        images = input if input.dtype == torch.float64 else input.float()
        dims, shape = [0, *range(2, images.ndim)], (1, -1, *[1] * (images.ndim - 2))
        local_count = images.new_tensor([images.numel() / images.shape[1]])
        sums = _sum_over_ranks(torch.cat((images.sum(dims), local_count)))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = images - mean.view(shape)
        # In a second pass, because the difference of two large sums would lose precision.
        variance = _sum_over_ranks(centred.square().sum(dims)) / count
        self._update_running(mean.detach(), variance.detach(), count)
        normalised = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            normalised = normalised * self.weight.view(shape) + self.bias.view(shape)
        return normalised.to(input.dtype)

    @torch.no_grad()
    def _update_running(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_((variance * (count / (count - 1))).to(self.running_var.dtype), share)


def synchronize_batch_norm(model: nn.Module, device: torch.device) -> None:
    """Replace a network's batch norm, in place, by one over all ranks; names, weights and statistics stay.

    Args:
        model: The network.
        device: Where it is trained.

    Raises:
        TrainingError: There is batch norm of another kind, with statistics of each rank's own part.
    """
    for name, child in model.named_children():
        if type(child) in _SUPPORTED:
            setattr(model, name, _synchronized(child, device))
        elif isinstance(child, nn.modules.batchnorm._BatchNorm):
            text = f"the network's {type(child).__name__} cannot be computed over several ranks; train it on one"
            raise TrainingError("spec", text)
        else:
            synchronize_batch_norm(child, device)


def _synchronized(norm: nn.Module, device: torch.device) -> nn.Module:
    if device.type == "cuda":
        replacement: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(norm)  # type: ignore[no-untyped-call]
        return replacement
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
    plain = GlobalBatchNorm(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    # The same parameters and buffers, not copies, because an optimiser may already hold them.
    plain._parameters, plain._buffers, plain.training = norm._parameters, norm._buffers, norm.training
    return plain


def _sum_over_ranks(tensor: Tensor) -> Tensor:
    total: Tensor = _SumOverRanks.apply(tensor)
    return total


class _SumOverRanks(torch.autograd.Function):
    """The sum over all ranks. Each rank's result depends on every rank's tensor, so its gradient is a sum too."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> Tensor:
        total = outer.clone()
        dist.all_reduce(total)
        return total
