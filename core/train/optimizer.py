"""The optimiser and its learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from core.specs import Optimizer, Schedule
from core.train.term_momentum import TermMomentum


def build_optimizer(model: nn.Module, spec: Optimizer, *, fused: bool = False) -> torch.optim.Optimizer:
    """Build the optimiser that a spec names, over all parameters of a model.

    Args:
        model: The network to train.
        spec: The optimiser and its parameters.
        fused: Whether one kernel updates all parameters, if the optimiser has one; it also reads the scale of float16
            on the device.
    """
    entry = spec.entry
    arguments: dict[str, Any] = {"lr": spec.lr, "weight_decay": spec.weight_decay}
    if entry.sgd_momentum:
        arguments |= {"momentum": spec.momentum, "nesterov": spec.nesterov}
    if entry.fused:
        arguments["fused"] = fused
    params = entry.params.model_validate(spec.params)
    optimizer: torch.optim.Optimizer = entry.load()(model.parameters(), **arguments, **params.arguments())
    return optimizer


def build_term_momentum(
    model: nn.Module, own: Sequence[Tensor], spec: Optimizer, momenta: Mapping[str, float]
) -> TermMomentum:
    """Build gradient descent with a momentum for each group of terms, as ``term_groups`` makes them.

    The method's own parameters have the momentum of the spec in every term.

    Args:
        model: The network to train.
        own: The parameters of the method.
        spec: The optimiser of the spec.
        momenta: By the name of each term, its momentum.
    """
    groups = term_groups(momenta)
    of_groups = {group: momenta[name] for name, group in groups.items()}
    weights, parameters = ([p for p in given if p.requires_grad] for given in (model.parameters(), own))
    decay, nesterov = spec.weight_decay, spec.nesterov
    optimizer = TermMomentum(weights, spec.lr, of_groups, weight_decay=decay, nesterov=nesterov)
    if parameters:
        optimizer.add_param_group({"params": parameters, "momenta": dict.fromkeys(of_groups, spec.momentum)})
    return optimizer


def term_groups(momenta: Mapping[str, float]) -> dict[str, str]:
    """Return the name of the group of each term. Terms with one momentum are a group: the momentum of a sum is the sum.

    Args:
        momenta: By the name of each term, its momentum.
    """
    names: dict[float, list[str]] = {}
    for name, momentum in momenta.items():
        names.setdefault(momentum, []).append(name)
    return {name: "+".join(names[momentum]) for name, momentum in momenta.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a state dict whose tensors are in standard order, each into the memory format of its parameter.

    Kernels that update a parameter together with its momentum pair them by their places in memory.
    """
    optimizer.load_state_dict(state)
    for parameter, tensors in optimizer.state.items():
        for name, value in tensors.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                tensors[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def start_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Give the parameters that have a gradient for the first time a momentum of zero, where others have theirs already.

    Torch's fused SGD starts the momentum of all parameters of a group in one step, or fails. From zero it computes the
    same first step.
    """
    for group in optimizer.param_groups:
        if not group.get("fused") or not group.get("momentum"):
            continue
        trained = [parameter for parameter in group["params"] if parameter.grad is not None]
        buffers = [optimizer.state.get(parameter, {}).get("momentum_buffer") for parameter in trained]
        if all(buffer is None for buffer in buffers):
            continue
        for parameter, buffer in zip(trained, buffers, strict=True):
            if buffer is None:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def lr_factor(schedule: Schedule, epoch: float, epochs: int, steps_per_epoch: int) -> float:
    """Return the factor of the peak learning rate.

    Args:
        schedule: The schedule of the spec.
        epoch: The number of epochs done, with a fraction within an epoch.
        epochs: The number of epochs of the whole run.
        steps_per_epoch: The number of steps of an epoch.
    """
    warmup = schedule.warmup_epochs or schedule.warmup_steps / steps_per_epoch
    if epoch < warmup:
        return epoch / warmup
    if schedule.name == "cosine":
        rest = max(epochs - warmup, 1)
        return 0.5 * (1 + math.cos(math.pi * min((epoch - warmup) / rest, 1)))
    if schedule.name == "step":
        return schedule.gamma ** sum(epoch >= milestone for milestone in schedule.milestones)
    return 1.0


def set_lr(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the learning rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


@contextmanager
def capturable(optimizer: torch.optim.Optimizer, learning_rate: Tensor) -> Iterator[None]:
    """A block in which the step of a fused optimiser can be captured as a CUDA graph.

    Args:
        optimizer: The optimiser.
        learning_rate: A scalar on the device, from which a replayed step reads its learning rate.
    """
    groups = optimizer.param_groups
    before = [{name: group[name] for name in ("lr", "capturable") if name in group} for group in groups]
    try:
        for group, values in zip(groups, before, strict=True):
            group.update({"lr": learning_rate, "capturable": True} if "capturable" in values else {"lr": learning_rate})
        yield
    finally:
        for group, values in zip(groups, before, strict=True):
            for name, value in values.items():
                group[name] = value
