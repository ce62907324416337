"""One optimiser step: forward, teacher, loss, backward, update, and the means of what was measured on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from core.data import Batch
from core.diagnostics.accuracy import top_accuracies
from core.diagnostics.gradients import measure_gradients
from core.methods import LogitBatch, Loss
from core.training.compiling import ForwardFn, GraphedCallable
from core.training.metric_means import RunningMeans
from core.training.optimizer import capturable, set_lr
from core.training.performance import ExecutionPlan
from core.training.ranks import SINGLE_PROCESS, Ranks
from core.training.teacher import Teacher


class Stepper:
    """Takes steps. Nothing in here waits for the device.

    Attributes:
        means: of the epoch under way.
        scaler: keeps float16 gradients from vanishing; does nothing in other precisions.
    """

    def __init__(
        self,
        model: nn.Module,
        teacher: Teacher | None,
        loss: Loss,
        optimizer: torch.optim.Optimizer,
        chosen: ExecutionPlan,
        *,
        ranks: Ranks = SINGLE_PROCESS,
        forward: ForwardFn | None = None,
        warn: Callable[[str], object] = lambda _: None,
    ) -> None:
        """``forward`` is the model as it is to be run, compiled say; ``warn`` is told of what did not work."""
        self.model, self.teacher, self.loss, self.optimizer = model, teacher, loss, optimizer
        self.means = RunningMeans()
        self.scaler = torch.amp.GradScaler(next(model.parameters()).device.type, enabled=chosen.precision == "float16")
        self._chosen, self._ranks, self._warn = chosen, ranks, warn
        self._forward: ForwardFn = forward or model
        self._recording = _Recording() if chosen.cuda_graphs else None

    def step(self, batch: Batch, epoch: int, rate: float) -> None:
        """One step on a batch.

        Args:
            epoch: counts from 0; moves the loss's ramp, and names the views that the teacher sees.
            rate: learning rate of this step.
        """
        set_lr(self.optimizer, rate)
        batch = replace(batch, images=batch.images.contiguous(memory_format=self._chosen.memory_format))
        inputs = [batch.images, batch.labels]
        if self.teacher:
            inputs.append(self.teacher.logits(batch, epoch))
        if not self._recording or not self._replayed(self._recording, inputs, epoch, rate):
            self._compute(epoch, batch.total, *inputs)

    def _compute(self, epoch: int, total: int, images: Tensor, labels: Tensor, teacher: Tensor | None = None) -> None:
        with self._chosen.autocast(images.device):
            student = self._forward(images)
        part = LogitBatch(student, teacher, labels)
        logits = self._ranks.gather_batch(part, total)
        terms = self.loss(logits, epoch)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(self._ranks.local_loss(terms, logits, part)).backward()  # type: ignore[no-untyped-call]
        self.scaler.step(self.optimizer)
        self.scaler.update()

        values = {"loss": terms.total} | top_accuracies(logits.student.detach(), logits.target) | terms.values
        self.means.add({f"train/{name}": value for name, value in values.items()}, total)
        self.means.add(measure_gradients(terms, logits), 1.0, skip_nan=True)

    def _replayed(self, recording: _Recording, inputs: list[Tensor], epoch: int, rate: float) -> bool:
        """Take the step by replaying the epoch's recording, made here where there is none; False: it is to be computed.

        What depends on the epoch (the loss's ramp, the tensors that sum up the means, modules set to eval mode) is a
        constant of a recording, so every epoch has its own: its first full batch is computed, and made the recording's
        model; a smaller batch is always computed.
        """
        shape = inputs[0].shape
        if recording.means is not self.means or recording.shape is None:
            # The last epoch's graph goes when its successor is made: a pool that no graph uses can't be recorded into.
            recording.rate, recording.means, recording.shape = None, self.means, shape
            return False
        if shape != recording.shape:
            return False
        if recording.rate is None or recording.graph is None:
            recording.rate = torch.tensor(rate, device=inputs[0].device)
            try:
                with capturable(self.optimizer, recording.rate):
                    recording.graph = GraphedCallable(
                        lambda *given: self._compute(epoch, shape[0], *given), inputs, recording.pool
                    )
            except RuntimeError as error:
                self._warn(f"steps are not recorded as a CUDA graph, but computed one by one: {error}")
                self._recording = None
                return False
        recording.rate.fill_(rate)
        recording.graph(*inputs)
        return True


class _Recording:
    """An epoch's step as a CUDA graph, and what it was made for."""

    def __init__(self) -> None:
        self.pool = torch.cuda.graph_pool_handle()
        self.means: RunningMeans | None = None
        self.shape: torch.Size | None = None
        self.rate: Tensor | None = None
        self.graph: GraphedCallable | None = None
