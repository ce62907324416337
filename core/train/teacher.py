"""The source of the teacher's outputs for a step, and the one that runs the network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from core.distill.objective import Outputs
from core.tasks.task import Batch, Task
from core.train.compiling import CompilationError, ForwardFn, GraphedCallable, compile_network
from core.train.folding import fold, foldable
from core.train.performance import ExecutionPlan


class Teacher(Protocol):
    """A source of the teacher's outputs."""

    def outputs(self, batch: Batch, epoch: int) -> Outputs:
        """Return logits (B, C) and taps on the batch's device, as constants.

        Args:
            batch: The views of the samples.
            epoch: Counted from 0; together with the samples it identifies the views.
        """
        ...

    def end_epoch(self) -> dict[str, float]:
        """Return metrics by name; called after the last batch of an epoch."""
        ...

    def finish(self) -> None:
        """Called after the last epoch."""
        ...


class LiveTeacher:
    """Runs the network on every batch.

    Args:
        network: In eval mode, without gradients. A module is copied, and may be compiled.
        plan: How the network computes.
        task: What the batches are of.
        taps: Names of the layers whose outputs are returned too.
        warn: Receives a message about an optimisation that did not work.
    """

    def __init__(
        self,
        network: ForwardFn,
        plan: ExecutionPlan,
        task: Task,
        taps: Sequence[str] = (),
        warn: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._task, self._taps = task, tuple(taps)
        self._network: ForwardFn = network
        if isinstance(network, nn.Module):
            self._network = _convert(network, plan, task, taps)
        self._plan, self._warn = plan, warn
        # Compiled and captured at the first call: a run that reads all its logits from the disk makes no call.
        self._forward: ForwardFn | None = None
        self._captured: GraphedCallable | None = None
        self._captured_shape = torch.Size()

    @torch.no_grad()
    def outputs(self, batch: Batch, epoch: int) -> Outputs:
        """Return logits (B, C) and taps on the batch's device, as constants."""
        return self._task.forward(self._call, batch.to_memory_format(self._plan.memory_format), self._taps)

    def _call(self, inputs: Any) -> Any:
        """Return the network's outputs for inputs: logits, or a tuple of logits and taps."""
        if self._forward is None:
            self._forward = self._build_forward(inputs)
        if self._captured and inputs.shape == self._captured_shape:
            captured = self._captured(inputs)
            return captured.clone() if isinstance(captured, Tensor) else tuple(part.clone() for part in captured)
        return self._run(inputs)

    def uncompiled(self) -> LiveTeacher:
        """Return the same teacher without compilation and capture, which cost more time than a few batches save."""
        if not (self._plan.compile or self._plan.cuda_graphs):
            return self
        other = copy.copy(self)
        other._plan = self._plan.model_copy(update={"compile": False, "cuda_graphs": False})
        # A copy with the hooks of its taps: compilation may change the network that it is given.
        other._network = copy.deepcopy(self._network)
        other._forward = other._captured = None
        return other

    def end_epoch(self) -> dict[str, float]:
        """Return no metrics."""
        return {}

    def finish(self) -> None:
        """Do nothing."""

    def _run(self, inputs: Any) -> Any:
        assert self._forward is not None
        with self._plan.autocast(inputs.device):
            return self._forward(inputs)

    def _build_forward(self, inputs: Any) -> ForwardFn:
        """Return the network as it is called from now on."""
        self._forward = self._network
        if self._plan.compile and isinstance(self._network, nn.Module):
            try:
                self._forward = compile_network(self._network, inputs, self._plan)
            except CompilationError as error:
                self._warn(f"the teacher is not compiled: {error}")
        if self._plan.cuda_graphs:
            self._run(inputs)
            try:
                self._captured, self._captured_shape = GraphedCallable(self._run, [inputs]), inputs.shape
            except RuntimeError as error:
                self._warn(f"the teacher is not captured as a CUDA graph: {error}")
        return self._forward


def _convert(network: nn.Module, plan: ExecutionPlan, task: Task, taps: Sequence[str]) -> nn.Module:
    """Return a tapped copy without batch norm, with weights in the precision that autocast would cast them to."""
    converted = copy.deepcopy(network).eval().requires_grad_(False)
    pairs = list(foldable(converted))  # before there are hooks, which tracing would call
    tapped = task.tapped(converted, taps) if taps else converted
    fold(converted, pairs)
    converted.requires_grad_(False).to(memory_format=plan.memory_format)
    for module in converted.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.to(plan.dtype)
    return tapped
