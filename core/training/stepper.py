"""One optimiser step: forward, teacher, loss, backward, update, and the means of what was measured on the way."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.data import Batch
from core.diagnostics.accuracy import top_accuracies
from core.diagnostics.gradients import measure
from core.methods import LogitBatch, Loss
from core.training.means import Means
from core.training.optimizer import set_rate
from core.training.speed import Chosen
from core.training.teacher import Teacher


class Stepper:
    """Takes steps. Nothing in here waits for the device.

    Attributes:
        means: of the epoch under way.
        scaler: keeps float16 gradients from vanishing; does nothing in other precisions.
    """

    def __init__(
        self, model: nn.Module, teacher: Teacher | None, loss: Loss, optimizer: torch.optim.Optimizer, chosen: Chosen
    ) -> None:
        self.model, self.teacher, self.loss, self.optimizer = model, teacher, loss, optimizer
        self.means = Means()
        self.scaler = torch.amp.GradScaler(next(model.parameters()).device.type, enabled=chosen.precision == "float16")
        self._chosen = chosen

    def step(self, batch: Batch, epoch: int, rate: float) -> None:
        """One step on a batch.

        Args:
            epoch: counts from 0; moves the loss's ramp, and names the views that the teacher sees.
            rate: learning rate of this step.
        """
        set_rate(self.optimizer, rate)
        teacher = self.teacher.logits(batch, epoch) if self.teacher else None
        with self._chosen.autocast(batch.images.device):
            student: Tensor = self.model(batch.images)
        logits = LogitBatch(student, teacher, batch.labels)
        terms = self.loss(logits, epoch)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(terms.total).backward()  # type: ignore[no-untyped-call]
        self.scaler.step(self.optimizer)
        self.scaler.update()

        values = {"loss": terms.total} | top_accuracies(student.detach(), batch.labels) | terms.values
        self.means.add({f"train/{name}": value for name, value in values.items()}, len(batch.labels))
        self.means.add(measure(terms, logits), 1.0, skip_nan=True)
