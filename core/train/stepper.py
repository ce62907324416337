"""One optimiser step: forward pass, teacher, loss, backward pass, update, and the running means of the metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from core.distill.gradients import measure_gradients
from core.distill.loss import Loss
from core.distill.rows import Rows
from core.tasks.classification.data import Batch
from core.tasks.classification.diagnostics.accuracy import top_accuracies
from core.train.compiling import ForwardFn, GraphedCallable
from core.train.metric_means import RunningMeans
from core.train.optimizer import capturable, set_lr
from core.train.performance import ExecutionPlan
from core.train.ranks import SINGLE_PROCESS, Ranks
from core.train.teacher import Teacher


class Stepper:
    """Takes optimiser steps. Nothing in it waits for the device.

    Args:
        model: The network to train.
        teacher: The source of the teacher's logits; None for a method without a teacher.
        loss: The method.
        optimizer: Of the model's parameters.
        plan: How the network computes.
        ranks: The processes that share each batch.
        forward: The model as a step calls it, for example compiled; None for the model itself.
        warn: Receives a message about an optimisation that did not work.

    Attributes:
        means: The running means of the current epoch.
        scaler: Keeps float16 gradients from vanishing; it does nothing in other precisions.
    """

    def __init__(
        self,
        model: nn.Module,
        teacher: Teacher | None,
        loss: Loss,
        optimizer: torch.optim.Optimizer,
        plan: ExecutionPlan,
        *,
        ranks: Ranks = SINGLE_PROCESS,
        forward: ForwardFn | None = None,
        warn: Callable[[str], object] = lambda _: None,
    ) -> None:
        self.model, self.teacher, self.loss, self.optimizer = model, teacher, loss, optimizer
        self.means = RunningMeans()
        self.scaler = torch.amp.GradScaler(next(model.parameters()).device.type, enabled=plan.precision == "float16")
        self._plan, self._ranks, self._warn = plan, ranks, warn
        self._forward: ForwardFn = forward or model
        self._capture = _StepCapture() if plan.cuda_graphs else None

    def step(self, batch: Batch, epoch: int, learning_rate: float) -> None:
        """Take one step on a batch.

        Args:
            batch: This rank's part of the batch.
            epoch: Counted from 0; it moves the loss's ramp, and identifies the views that the teacher sees.
            learning_rate: The learning rate of this step.
        """
        set_lr(self.optimizer, learning_rate)
        batch = replace(batch, images=batch.images.contiguous(memory_format=self._plan.memory_format))
        inputs = [batch.images, batch.labels]
        if self.teacher:
            inputs.append(self.teacher.logits(batch, epoch))
        if not self._capture or not self._replay(self._capture, inputs, epoch, learning_rate):
            self._compute(epoch, batch.total, *inputs)

    def _compute(self, epoch: int, total: int, images: Tensor, labels: Tensor, teacher: Tensor | None = None) -> None:
        with self._plan.autocast(images.device):
            student = self._forward(images)
        part = Rows(student, teacher, labels)
        logits = self._ranks.gather_batch(part, total)
        terms = self.loss(logits, epoch)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(self._ranks.local_loss(terms, logits, part)).backward()  # type: ignore[no-untyped-call]
        self.scaler.step(self.optimizer)
        self.scaler.update()

        values = {"loss": terms.total} | top_accuracies(logits.student.detach(), logits.target) | terms.values
        self.means.add({f"train/{name}": value for name, value in values.items()}, total)
        self.means.add(measure_gradients(terms, logits), 1.0, skip_nan=True)

    def _replay(self, capture: _StepCapture, inputs: list[Tensor], epoch: int, learning_rate: float) -> bool:
        """Take the step by replaying the epoch's capture, which is made here first. Returns False if it cannot.

        Everything that depends on the epoch (the loss's ramp, the tensors that sum up the means, modules set to eval
        mode) is a constant of a capture, so each epoch has its own. The first full batch of an epoch is computed, and
        the capture repeats its shape; a smaller batch is always computed.
        """
        shape = inputs[0].shape
        if capture.means is not self.means or capture.shape is None:
            # The last graph is kept until its successor exists: a pool that no graph uses cannot be captured to.
            capture.learning_rate, capture.means, capture.shape = None, self.means, shape
            return False
        if shape != capture.shape:
            return False
        if capture.learning_rate is None or capture.graph is None:
            capture.learning_rate = torch.tensor(learning_rate, device=inputs[0].device)
            try:
                with capturable(self.optimizer, capture.learning_rate):
                    capture.graph = GraphedCallable(
                        lambda *tensors: self._compute(epoch, shape[0], *tensors), inputs, capture.pool
                    )
            except RuntimeError as error:
                self._warn(f"steps are not captured as a CUDA graph, but computed one by one: {error}")
                self._capture = None
                return False
        capture.learning_rate.fill_(learning_rate)
        capture.graph(*inputs)
        return True


class _StepCapture:
    """A step of an epoch as a CUDA graph, and what it was made for."""

    def __init__(self) -> None:
        self.pool = torch.cuda.graph_pool_handle()
        self.means: RunningMeans | None = None
        self.shape: torch.Size | None = None
        self.learning_rate: Tensor | None = None
        self.graph: GraphedCallable | None = None
