"""The classifiers of the networks, and the maps that they read the mean of."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.catalog.taps import LAST_MAP
from core.distill.features.common import require_maps
from core.distill.objective import NetworkShape, ObjectiveError, Setting

Role = Literal["student", "teacher"]


def shape_of(setting: Setting, role: Role) -> NetworkShape:
    """Return the shapes of the student or of the teacher.

    Raises:
        ObjectiveError: There is no teacher.
    """
    shape = setting.student if role == "student" else setting.teacher
    if shape is None:
        raise ObjectiveError("this method needs a teacher")
    return shape


def only_tap(network: NetworkShape, parameter: str) -> tuple[str, torch.Size]:
    """Return the name of the one tap of a network, and its shape.

    Args:
        network: The network.
        parameter: The parameter that names the tap.

    Raises:
        ObjectiveError: The parameter does not name one layer.
    """
    if len(network.taps) != 1:
        raise ObjectiveError(f"{parameter}: this method reads one layer, and here are {[*network.taps] or 'none'}")
    ((name, shape),) = network.taps.items()
    return name, shape


def map_of(setting: Setting, role: Role, *, averaged: bool = False) -> tuple[str, torch.Size]:
    """Return the name of a network's only tap and its shape (channels, height, width).

    Args:
        setting: What the method is built for.
        role: The network.
        averaged: Whether the mean of the map over positions must be what the network's classifier reads.

    Raises:
        ObjectiveError: The tap gives no maps, or not those that the classifier reads.
    """
    network, parameter = shape_of(setting, role), f"{role}_tap"
    name, shape = only_tap(network, parameter)
    require_maps({name: shape}, parameter)
    if averaged and name not in network.averaged:
        text = f"{parameter}: the classifier of the {role} does not read the mean of {name!r} over positions"
        advice = "" if name == LAST_MAP else f"; {LAST_MAP!r} is what pooling reads"
        raise ObjectiveError(f"{text}, because other layers than pooling are between them{advice}")
    return name, shape


def classifier_of(setting: Setting, role: Role) -> nn.Linear:
    """Return the last linear layer of a network.

    Raises:
        ObjectiveError: The network has no last linear layer.
    """
    linear = shape_of(setting, role).linear
    if linear is None:
        raise ObjectiveError(f"the {role} has no last linear layer, which this method needs")
    return linear


class FrozenLinear(nn.Module):
    """A copy of a linear layer that is not trained, and that is not in checkpoints: the teacher has it.

    Args:
        linear: The layer.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.register_buffer("weight", linear.weight.detach().clone(), persistent=False)
        bias = None if linear.bias is None else linear.bias.detach().clone()
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits (B, C) of features (B, D)."""
        bias = None if self.bias is None else self.bias.to(features.dtype)
        return F.linear(features, self.weight.to(features.dtype), bias)

    def as_linear(self) -> nn.Linear:
        """Return the layer as one of torch's, whose parameters are not trained."""
        classes, width = self.weight.shape
        linear = nn.Linear(width, classes, self.bias is not None, device="meta")  # draws no random numbers
        linear.weight = nn.Parameter(self.weight, requires_grad=False)
        if self.bias is not None:
            linear.bias = nn.Parameter(self.bias, requires_grad=False)
        return linear
