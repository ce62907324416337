"""Where a step gets the teacher's logits from."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse

from core.data import Batch
from core.training.compiling import CompilationError, ForwardFn, GraphedCallable, compile_network
from core.training.performance import ExecutionPlan


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
        network: in eval mode, without gradients; a module is copied, and may be compiled.
        warn: takes what a person should know of what did not work.
    """

    def __init__(
        self, network: ForwardFn, chosen: ExecutionPlan, warn: Callable[[str], object] = lambda _: None
    ) -> None:
        self._network = _converted(network, chosen) if isinstance(network, nn.Module) else network
        self._chosen, self._warn = chosen, warn
        # Compiled and recorded when it is first asked: a run that reads all its logits from the disk never asks.
        self._forward: ForwardFn | None = None
        self._recorded: GraphedCallable | None = None
        self._recorded_shape = torch.Size()

    @torch.no_grad()
    def logits(self, batch: Batch, epoch: int) -> Tensor:
        images = batch.images.contiguous(memory_format=self._chosen.memory_format)
        if self._forward is None:
            self._forward = self._built(images)
        if self._recorded and images.shape == self._recorded_shape:
            found = self._recorded(images)
            assert found is not None
            return found.clone()
        return self._run(images)

    def plain(self) -> LiveTeacher:
        """The same without compilation and recording, which cost more than a few batches are worth."""
        if not (self._chosen.compile or self._chosen.cuda_graphs):
            return self
        return LiveTeacher(self._network, self._chosen.model_copy(update={"compile": False, "cuda_graphs": False}))

    def end_epoch(self) -> dict[str, float]:
        return {}

    def finish(self) -> None:
        return

    def _run(self, images: Tensor) -> Tensor:
        assert self._forward is not None
        with self._chosen.autocast(images.device):
            return self._forward(images)

    def _built(self, images: Tensor) -> ForwardFn:
        """The network as it is to be run from here on."""
        self._forward = self._network
        if self._chosen.compile and isinstance(self._network, nn.Module):
            try:
                self._forward = compile_network(self._network, images, self._chosen)
            except CompilationError as error:
                self._warn(f"the teacher is not compiled: {error}")
        if self._chosen.cuda_graphs:
            self._run(images)
            try:
                self._recorded, self._recorded_shape = GraphedCallable(self._run, [images]), images.shape
            except RuntimeError as error:
                self._warn(f"the teacher is not recorded as a CUDA graph: {error}")
        return self._forward


def _converted(network: nn.Module, chosen: ExecutionPlan) -> nn.Module:
    """A copy for training with: batch norm folded away, weights in the precision autocast would give them each time."""
    own = _folded(network).to(memory_format=chosen.memory_format)
    for module in own.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.to(chosen.dtype)
    return own.eval().requires_grad_(False)


def _folded(network: nn.Module) -> nn.Module:
    """A copy whose batch norms are part of the convolutions before them, where nothing else reads those.

    In eval mode both are linear, so this is the same function but for rounding (10⁻⁷ of the logits), and it saves about
    a third of a teacher's time on a CPU. A network whose graph cannot be followed is copied as it is.
    """
    own = copy.deepcopy(network)
    if isinstance(own, fx.GraphModule):  # folded before
        return own
    try:
        return fuse(own)
    except Exception:  # noqa: BLE001 (tracing runs the network's own code, which may raise whatever it likes)
        return own
