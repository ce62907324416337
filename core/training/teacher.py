"""Where a step gets the teacher's logits from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from core.data import Batch
from core.training.speed import Chosen


class Teacher(Protocol):
    """Knows the teacher's logits of a batch."""

    def logits(self, batch: Batch, epoch: int) -> Tensor:
        """(B, C) on the batch's device, a constant. ``epoch`` counts from 0; with the samples it names the views."""
        ...

    def end_epoch(self) -> dict[str, float]:
        """Called when every batch of an epoch has been asked for. Returns metrics by name."""
        ...

    def finish(self) -> None:
        """Called after the last epoch."""
        ...


class LiveTeacher:
    """Runs the network on every batch.

    Args:
        forward: the network in eval mode: images (B, channels, H, W) to logits (B, C).
    """

    def __init__(self, forward: Callable[[Tensor], Tensor], chosen: Chosen) -> None:
        self._forward, self._chosen = forward, chosen

    @torch.no_grad()
    def logits(self, batch: Batch, epoch: int) -> Tensor:
        with self._chosen.autocast(batch.images.device):
            return self._forward(batch.images)

    def end_epoch(self) -> dict[str, float]:
        return {}

    def finish(self) -> None:
        return
