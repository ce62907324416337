"""SimKD's projector, which stays in the student, and the head that it is a part of."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from core.distill.features.batch_norm import row_batch_norm
from core.distill.features.common import pooled
from core.distill.rows import Rows
from core.weights.metadata import HeadForm


class Projector(nn.Module):
    """1×1 convolution, batch norm, ReLU; 3×3, batch norm, ReLU; 1×1, batch norm, ReLU. The convolutions have no bias.

    Args:
        form: Channels, and the size to which maps are averaged first.
    """

    def __init__(self, form: HeadForm) -> None:
        super().__init__()
        self.form = form
        self.reduce = nn.Conv2d(form.channels, form.hidden, 1, bias=False)
        self.reduce_norm = nn.BatchNorm2d(form.hidden)
        self.mix = nn.Conv2d(form.hidden, form.hidden, 3, padding=1, bias=False)
        self.mix_norm = nn.BatchNorm2d(form.hidden)
        self.expand = nn.Conv2d(form.hidden, form.features, 1, bias=False)
        self.expand_norm = nn.BatchNorm2d(form.features)

    def forward(self, maps: Tensor, rows: Rows | None = None) -> Tensor:
        """Return maps (B, features, H', W') of maps (B, channels, H, W).

        Args:
            maps: The student's maps.
            rows: The rows of a batch of the training; None outside it.
        """
        if self.form.size:
            maps = pooled(maps, self.form.size)
        maps = F.relu(row_batch_norm(self.reduce_norm, self.reduce(maps), rows))
        maps = F.relu(row_batch_norm(self.mix_norm, self.mix(maps), rows))
        return F.relu(row_batch_norm(self.expand_norm, self.expand(maps), rows))


class ProjectedHead(nn.Module):
    """A projector and global average pooling: from the last stage's map to the features of a classifier.

    Args:
        projector: The projector.
    """

    def __init__(self, projector: Projector) -> None:
        super().__init__()
        self.projector = projector
        self.pool = nn.AdaptiveAvgPool2d(1)

    @property
    def form(self) -> HeadForm:
        """What a file of weights says about the head."""
        return self.projector.form

    def forward(self, maps: Tensor) -> Tensor:
        """Return the features (B, D) of maps (B, C, H, W)."""
        features: Tensor = self.pool(self.projector(maps)).flatten(1)
        return features
