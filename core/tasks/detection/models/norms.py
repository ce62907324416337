"""The normalisation in backbones: batch norm, batch norm that stays as it is, or group norm."""

from __future__ import annotations

import math
from typing import Literal

from torch import nn
from torchvision.ops import FrozenBatchNorm2d

Norm = Literal["batch", "frozen", "group"]

_GROUPS = 32
_LEAST_GROUP = 4  # channels: fewer make it instance normalisation, which removes what a channel says of an object


def with_norm(module: nn.Module, norm: Norm) -> None:
    """Replace every batch norm in a module: by one that is frozen, or by group norm.

    Args:
        module: The module, which is changed.
        norm: What takes its place. ``batch`` leaves it.
    """
    if norm == "batch":
        return
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, _frozen(child) if norm == "frozen" else _grouped(child))
        else:
            with_norm(child, norm)


def group_norm(channels: int) -> nn.GroupNorm:
    """Return a group norm of 32 groups, or of fewer if they would have less than four channels."""
    return nn.GroupNorm(math.gcd(_GROUPS, max(1, channels // _LEAST_GROUP)), channels)


def _grouped(norm: nn.BatchNorm2d) -> nn.Module:
    grouped = group_norm(norm.num_features)
    activation = getattr(norm, "act", None)  # timm has batch norms with an activation in them
    return nn.Sequential(grouped, activation) if isinstance(activation, nn.Module) else grouped


def _frozen(norm: nn.BatchNorm2d) -> nn.Module:
    if hasattr(norm, "act"):
        from timm.layers import freeze_batch_norm_2d

        with_activation: nn.Module = freeze_batch_norm_2d(norm)
        return with_activation
    frozen: nn.Module = FrozenBatchNorm2d(norm.num_features, norm.eps)
    frozen.load_state_dict(norm.state_dict())
    return frozen
