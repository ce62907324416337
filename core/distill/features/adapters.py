"""The layers of a method's own that join the maps of two networks: connectors and regressors.

They are parameters of the objective: trained with the student, in its checkpoints, and not in the exported network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from core.distill.features.batch_norm import BatchNorm
from core.distill.objective import ObjectiveError, Setting


class Layers(nn.Sequential):
    """A sequence of layers that tells those with batch norm how much of a mean belongs to each row."""

    def forward(self, maps: Tensor, share: Tensor | None = None) -> Tensor:
        """Return the output for maps (B, C, H, W); ``share`` is that of ``BatchNorm.forward``."""
        for layer in self:
            maps = layer(maps, share) if isinstance(layer, BatchNorm | Layers) else layer(maps)
        return maps


def conv_bn(in_channels: int, channels: int) -> Layers:
    """Return a 1×1 convolution without bias, with He's initialisation by fan-out, and batch norm."""
    conv = nn.Conv2d(in_channels, channels, 1, bias=False)
    nn.init.normal_(conv.weight, std=math.sqrt(2 / channels))
    return Layers(conv, BatchNorm(channels))


def conv_bn_relu(in_channels: int, channels: int, kernel: int) -> Layers:
    """Return a convolution without bias that keeps the size of the maps, batch norm and ReLU."""
    conv = nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2, bias=False)
    return Layers(conv, BatchNorm(channels), nn.ReLU())


def channel_adapters(setting: Setting, pairs: Sequence[tuple[str, str]]) -> nn.ModuleList:
    """Return for each pair of maps the layer that gives the student's map the teacher's channels.

    It is a 1×1 convolution, and nothing where the numbers of channels are equal.
    """
    assert setting.teacher is not None
    widths = [(setting.student.taps[student][0], setting.teacher.taps[teacher][0]) for student, teacher in pairs]
    return nn.ModuleList(nn.Identity() if own == other else nn.Conv2d(own, other, 1) for own, other in widths)


def valid_convolution(student: torch.Size, teacher: torch.Size) -> nn.Conv2d:
    """Return the convolution without padding that maps the student's maps to the size of the teacher's.

    Its kernel is 1 + the difference of the sizes (Romero et al. 2015, section 2.2).

    Raises:
        ObjectiveError: The student's maps are smaller.
    """
    kernel = (1 + student[1] - teacher[1], 1 + student[2] - teacher[2])
    if min(kernel) < 1:
        raise ObjectiveError(f"the student's {_size(student)} are smaller than the teacher's {_size(teacher)}")
    return nn.Conv2d(student[0], teacher[0], kernel)


def resizing_convolution(student: torch.Size, teacher: torch.Size) -> nn.Module:
    """Return a convolution that maps the student's maps to the size of the teacher's, as RepDistiller does it.

    Maps of twice the size pass a 3×3 convolution of stride 2, maps of half the size a transposed 4×4 convolution of
    stride 2, and others one without padding (Tian et al. 2020).

    Raises:
        ObjectiveError: The student's maps are smaller in another ratio than 2.
    """
    if student[1] == 2 * teacher[1] and student[2] == 2 * teacher[2]:
        return nn.Conv2d(student[0], teacher[0], 3, stride=2, padding=1)
    if 2 * student[1] == teacher[1] and 2 * student[2] == teacher[2]:
        return nn.ConvTranspose2d(student[0], teacher[0], 4, stride=2, padding=1)
    return valid_convolution(student, teacher)


def _size(shape: torch.Size) -> str:
    return f"maps of {shape[1]}×{shape[2]}"
