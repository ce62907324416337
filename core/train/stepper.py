"""One optimiser step: forward pass, teacher, loss, backward pass, update, and the running means of the metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from core.catalog.taps import is_logits
from core.distill.gradients import measure_gradients
from core.distill.objective import Objective, Outputs, Trained
from core.specs import Training
from core.tasks.task import Batch, Task
from core.train.accumulation import MicroBatches
from core.train.compiling import ForwardFn, GraphedCallable
from core.train.metric_means import RunningMeans
from core.train.optimizer import capturable, set_lr, start_momentum, term_groups
from core.train.performance import ExecutionPlan
from core.train.rank_loss import average_gradients, step_loss
from core.train.ranks import SINGLE_PROCESS, Ranks
from core.train.teacher import Teacher
from core.train.term_momentum import TermMomentum
from core.train.termwise import Gradients, Termwise, sum_gradients


@dataclass(frozen=True)
class Update:
    """How the weights are updated from a batch.

    Attributes:
        micro_batch_size: The most samples, on all ranks, that pass through the network at once; None for all.
        clip_norm: The greatest norm of the gradient of all parameters; None for no limit.
    """

    micro_batch_size: int | None = None
    clip_norm: float | None = None

    @classmethod
    def of(cls, training: Training) -> Update:
        """Return the update that a spec asks for."""
        return cls(training.micro_batch_size if training.accumulate > 1 else None, training.clip_grad_norm)

    def micro_batches(self, total: int) -> int:
        """Return the number of micro-batches of a batch of ``total`` samples."""
        return 1 if self.micro_batch_size is None else math.ceil(total / self.micro_batch_size)


class Stepper:
    """Takes optimiser steps. Nothing in it waits for the device.

    Args:
        task: What the batches are of.
        model: The network to train.
        teacher: The source of the teacher's outputs; None for a method without a teacher.
        objective: The method.
        optimizer: Of the parameters of the model and of the objective.
        plan: How the network computes.
        ranks: The processes that share each batch.
        forward: The model as a step calls it, for example tapped or compiled; None for the model itself.
        update: How the weights are updated from the batch.
        eager: The tapped network without compilation, for the gradients of single terms; None for ``forward``.
        warn: Receives a message about an optimisation that did not work.

    Attributes:
        means: The running means of the current epoch.
        scaler: Keeps float16 gradients from vanishing; it does nothing in other precisions.
    """

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        teacher: Teacher | None,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        plan: ExecutionPlan,
        *,
        ranks: Ranks = SINGLE_PROCESS,
        forward: ForwardFn | None = None,
        eager: ForwardFn | None = None,
        update: Update = Update(),
        warn: Callable[[str], object] = lambda _: None,
    ) -> None:
        self.model, self.teacher, self.objective, self.optimizer = model, teacher, objective, optimizer
        self.means = RunningMeans()
        self.scaler = torch.amp.GradScaler(next(model.parameters()).device.type, enabled=plan.precision == "float16")
        self._task, self._plan, self._ranks, self._warn = task, plan, ranks, warn
        self._network: ForwardFn = forward or model
        self._update = update
        self._trained: Trained | None = None  # in the last step
        self._micro_batches = MicroBatches(task, model, objective, ranks, self._forward, self._network, self.scaler)
        self._eager: ForwardFn = eager or self._network
        groups = term_groups(objective.momenta)
        self._termwise = Termwise(
            task, model, objective, ranks, self._forward_eagerly, self._eager, self.scaler, groups
        )
        by_term = bool(objective.shares or groups)
        self._always_by_term = by_term
        replayable = objective.capturable and not objective.reads_index and not by_term
        self._capture = _StepCapture() if plan.cuda_graphs and replayable else None

    def step(self, batch: Batch, epoch: int, learning_rate: float, *, measure: bool = False) -> None:
        """Take one step on a batch.

        Args:
            batch: This rank's part of the batch.
            epoch: Counted from 0; it moves the loss's ramp, and identifies the views that the teacher sees.
            learning_rate: The learning rate of this step.
            measure: Whether to measure each term's share of the gradient, which takes a backward pass for each.
        """
        set_lr(self.optimizer, learning_rate)
        batch = batch.to_memory_format(self._plan.memory_format)
        teacher = self.teacher.outputs(batch, epoch) if self.teacher else None
        batch = self._task.with_teacher(batch, teacher)
        if measure or not self._capture or not self._replay(self._capture, batch, teacher, epoch, learning_rate):
            self._compute(batch, teacher, epoch, measure=measure)

    def _forward(self, batch: Batch) -> Outputs:
        with self._plan.autocast(batch.tensors()[0].device):
            return self._task.forward(self._network, batch, self.objective.student_outputs)

    @contextmanager
    def _training(self, trained: Trained) -> Iterator[None]:
        """A block whose backward pass gives gradients to all, some or none of the student's parameters.

        DistributedDataParallel waits for a gradient of every parameter. If some get none, the average over the ranks
        is computed here.
        """
        network = self._network
        if trained == "all" or not isinstance(network, nn.parallel.DistributedDataParallel):
            yield
            return
        with network.no_sync():
            yield
        if trained == "some":
            average_gradients(self.model, self._ranks)

    def _forward_eagerly(self, batch: Batch) -> Outputs:
        with self._plan.autocast(batch.tensors()[0].device):
            has_layers = not all(is_logits(name) for name in self.objective.taps.student)
            return self._task.forward(self._eager, batch, self.objective.student_outputs, first_tap=has_layers)

    def _compute(self, batch: Batch, teacher: Outputs | None, epoch: int, *, measure: bool = False) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        count, trained = self._update.micro_batches(batch.total), self.objective.trains(epoch)
        shares: Mapping[str, Tensor] = {}
        of_groups: Mapping[str, Gradients] = {}
        has_all_terms = trained == "all" or self.objective.changes_logits  # and not those of a first stage
        if has_all_terms and (measure or self._always_by_term):
            step = self._termwise.backward(batch, count, teacher, epoch, measure=measure)
            loss, shares, of_groups = step.loss, step.metrics, step.gradients
        else:
            with self._training(trained):
                if count > 1:
                    loss = self._micro_batches.backward(batch, count, teacher, epoch)
                else:
                    with torch.set_grad_enabled(trained != "none"):
                        student = self._forward(batch)
                    part = self._task.step(student, teacher, batch, epoch, with_index=self.objective.reads_index)
                    loss = step_loss(self.objective, part, batch.total, self._ranks, copies=batch.copies)
                    self.scaler.scale(loss.local).backward()  # type: ignore[no-untyped-call]
        if self.objective.scope == "row":
            average_gradients(self.objective, self._ranks)
        if trained != self._trained:
            start_momentum(self.optimizer)
            self._trained = trained
        if isinstance(self.optimizer, TermMomentum):
            norms = self._clip_sum(of_groups)
            self.optimizer.step(of_groups)
        else:
            norms = self._clip_gradients()
            self.scaler.step(self.optimizer)
        self.scaler.update()

        rows = loss.rows if loss.terms.logits is None else replace(loss.rows, student=loss.terms.logits.detach())
        values = {"loss": loss.terms.total} | self._task.step_metrics(rows) | loss.terms.values
        self.means.add({f"train/{name}": value for name, value in values.items()}, batch.total)
        self.means.add(measure_gradients(loss.terms, rows) | norms, 1.0, skip_nan=True)
        self.means.add(dict(shares), 1.0, skip_nan=True)

    def _clip_gradients(self) -> dict[str, Tensor]:
        """Shorten the gradient of all parameters to the limit, if there is one; return its norm before that."""
        if self._update.clip_norm is None:
            return {}
        self.scaler.unscale_(self.optimizer)
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, self._update.clip_norm)
        # A float16 step whose gradient overflowed is skipped by the scaler.
        return {"grad/norm": torch.where(norm.isfinite(), norm, torch.nan)}

    def _clip_sum(self, of_groups: Mapping[str, Gradients]) -> dict[str, Tensor]:
        """Shorten the gradients of all groups of terms by one factor, by which their sum has the greatest norm allowed.

        Returns:
            The norm of the sum before that, if there is a limit.
        """
        if self._update.clip_norm is None:
            return {}
        total = sum_gradients(list(of_groups.values()))
        norm = nn.utils.get_total_norm([gradient for gradient in total if gradient is not None])
        factor = (self._update.clip_norm / (norm + 1e-6)).clamp(max=1.0)  # as in torch's clip_grad_norm_
        for gradients in of_groups.values():
            torch._foreach_mul_([gradient for gradient in gradients if gradient is not None], factor)
        return {"grad/norm": torch.where(norm.isfinite(), norm, torch.nan)}

    def _replay(
        self, capture: _StepCapture, batch: Batch, teacher: Outputs | None, epoch: int, learning_rate: float
    ) -> bool:
        """Take the step by replaying the epoch's capture, which is made here first. Returns False if it cannot.

        Everything that depends on the epoch (the loss's ramp, the tensors that sum up the means, modules set to eval
        mode) is a constant of a capture, so each epoch has its own. The first full batch of an epoch is computed, and
        the capture repeats its shape; a smaller batch is always computed.
        """
        count = len(batch.tensors())
        inputs = [*batch.tensors(), *([teacher.logits, *teacher.taps.values()] if teacher else ())]
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
                    names = list(teacher.taps) if teacher else []

                    def compute(*tensors: Tensor) -> None:
                        logits, *taps = tensors[count:] or (None,)
                        outputs = None if logits is None else Outputs(logits, dict(zip(names, taps, strict=True)))
                        self._compute(batch.with_tensors(*tensors[:count]), outputs, epoch)

                    capture.graph = GraphedCallable(compute, inputs, capture.pool)
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
