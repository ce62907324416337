"""The optimiser and its learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from core.specs import Optimizer, Schedule


def build_optimizer(model: nn.Module, spec: Optimizer, *, fused: bool = False) -> torch.optim.Optimizer:
    """The optimiser that a spec names, over all of a model's parameters.

    Args:
        fused: update all parameters in one kernel; it also reads float16's scale where it lies, on the device.
    """
    if spec.name == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=spec.lr, weight_decay=spec.weight_decay, fused=fused)
    return torch.optim.SGD(
        model.parameters(),
        lr=spec.lr,
        momentum=spec.momentum,
        nesterov=spec.nesterov,
        weight_decay=spec.weight_decay,
        fused=fused,
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


def lr_factor(schedule: Schedule, epoch: float, epochs: int) -> float:
    """What the peak rate is multiplied by after ``epoch`` passes (a fraction within an epoch) of ``epochs``."""
    if epoch < schedule.warmup_epochs:
        return epoch / schedule.warmup_epochs
    if schedule.name == "cosine":
        rest = max(epochs - schedule.warmup_epochs, 1)
        return 0.5 * (1 + math.cos(math.pi * min((epoch - schedule.warmup_epochs) / rest, 1)))
    if schedule.name == "step":
        return schedule.gamma ** sum(epoch >= milestone for milestone in schedule.milestones)
    return 1.0


def set_lr(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


@contextmanager
def capturable(optimizer: torch.optim.Optimizer, rate: Tensor) -> Iterator[None]:
    """A block in which a fused optimiser's step can be recorded: it reads its learning rate from ``rate``, a scalar."""
    groups = optimizer.param_groups
    before = [{name: group[name] for name in ("lr", "capturable") if name in group} for group in groups]
    try:
        for group, values in zip(groups, before, strict=True):
            group.update({"lr": rate, "capturable": True} if "capturable" in values else {"lr": rate})
        yield
    finally:
        for group, values in zip(groups, before, strict=True):
            for name, value in values.items():
                group[name] = value
