"""The optimiser and its learning rate."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from core.spec import Optimizer, Schedule


def build_optimizer(model: nn.Module, spec: Optimizer) -> torch.optim.Optimizer:
    """The optimiser that a spec names, over all of a model's parameters."""
    if spec.name == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=spec.lr, weight_decay=spec.weight_decay)
    return torch.optim.SGD(
        model.parameters(),
        lr=spec.lr,
        momentum=spec.momentum,
        nesterov=spec.nesterov,
        weight_decay=spec.weight_decay,
    )


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a state dict whose tensors are in standard order, each into the memory format of its parameter.

    Kernels that update a parameter and its momentum together go by their places in memory.
    """
    optimizer.load_state_dict(state)
    for parameter, kept in optimizer.state.items():
        for name, value in kept.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                kept[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def rate_factor(schedule: Schedule, epoch: float, epochs: int) -> float:
    """What the peak rate is multiplied by after ``epoch`` passes (a fraction within an epoch) of ``epochs``."""
    if epoch < schedule.warmup_epochs:
        return epoch / schedule.warmup_epochs
    if schedule.name == "cosine":
        rest = max(epochs - schedule.warmup_epochs, 1)
        return 0.5 * (1 + math.cos(math.pi * min((epoch - schedule.warmup_epochs) / rest, 1)))
    if schedule.name == "step":
        return schedule.gamma ** sum(epoch >= milestone for milestone in schedule.milestones)
    return 1.0


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
