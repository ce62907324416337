"""Compiled networks and captured steps, which do the same arithmetic in fewer and larger kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from core.train.performance import ExecutionPlan

ForwardFn = Callable[[Tensor], Any]
"""A function from a batch's inputs to logits (B, C), or to a tuple of logits and taps."""


class CompilationError(RuntimeError):
    """A network could not be compiled; the message is one line."""


def compile_network(network: nn.Module, example: Tensor, plan: ExecutionPlan) -> ForwardFn:
    """Compile a network for batches of one shape; batches of other shapes pass through the network as it is.

    The network is compiled at once, by a forward pass, and by a backward pass if it has parameters to train. Afterwards
    its state, its gradients and torch's random state are what they were before.

    Args:
        network: In the mode in which it will be used.
        example: (B, channels, H, W), with the shape, device and memory format of a batch.
        plan: How the network computes.

    Returns:
        The network as a function.

    Raises:
        CompilationError: Anything went wrong: there is no C++ compiler, the network cannot be traced, or torch failed.
    """
    # Compile in this process: a pool of compilers would add as many processes as the run was given threads.
    import torch._inductor.config

    torch._inductor.config.compile_threads = 1
    is_trained = any(parameter.requires_grad for parameter in network.parameters())
    # Weights that never change are laid out once in the format of the CPU's kernels.
    frozen: dict[str, Any] | None = {"freezing": True} if not is_trained and example.device.type == "cpu" else None
    compiled: ForwardFn = torch.compile(network, dynamic=False, options=frozen)
    try:
        with _restoring_state(network, example.device), torch.set_grad_enabled(is_trained):
            with plan.autocast(example.device):
                result = compiled(example)
            if is_trained:
                outputs = (result,) if isinstance(result, Tensor) else result
                torch.stack([output.float().sum() for output in outputs]).sum().backward()  # type: ignore[no-untyped-call]
    except Exception as error:
        raise CompilationError(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}") from error

    def forward(images: Tensor) -> Any:
        return compiled(images) if images.shape == example.shape else network(images)

    return forward


@contextmanager
def _restoring_state(network: nn.Module, device: torch.device) -> Iterator[None]:
    """A block after which a network's state and the random state are as before, whatever happened in it."""
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            with torch.no_grad():
                for name, tensor in network.state_dict().items():
                    tensor.copy_(state[name])
            network.zero_grad(set_to_none=True)


class GraphedCallable:
    """A function of tensors, captured once as a CUDA graph: a call copies its arguments in and replays all kernels.

    The capture itself runs no kernel. Create and call the object on the same stream, not the default one, after the
    function was called there once, so that everything it sets up at its first call exists.

    Args:
        function: Takes tensors on the GPU, always with the shapes of the example. Its Python code runs during the
            capture and never again.
        example: Tensors with the shapes of the arguments.
        pool: A memory pool (``torch.cuda.graph_pool_handle``) shared with an earlier capture that is no longer called.
    """

    def __init__(self, function: Callable[..., Any], example: Sequence[Tensor], pool: Any = None) -> None:
        self._inputs = [tensor.clone(memory_format=torch.preserve_format) for tensor in example]
        self._graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        # The thread that prefetches images may allocate pinned memory meanwhile, which is not part of the capture.
        self._graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        try:
            self._output = function(*self._inputs)
        finally:
            self._graph.capture_end()

    def __call__(self, *inputs: Tensor) -> Any:
        """Return the function's result, which the next call overwrites."""
        for captured, value in zip(self._inputs, inputs, strict=True):
            captured.copy_(value, non_blocking=True)
        self._graph.replay()
        return self._output


def capture_stream(plan: ExecutionPlan, device: torch.device) -> AbstractContextManager[object]:
    """A block that runs on a CUDA stream of its own if steps are captured, which the default stream does not allow.

    The GPU finishes the work from before the block first, and the work of the block before what follows it.

    Args:
        plan: How the network computes.
        device: The device of the training.
    """
    return _side_stream(device) if plan.cuda_graphs else nullcontext()


@contextmanager
def _side_stream(device: torch.device) -> Iterator[None]:
    outer, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    side.wait_stream(outer)
    try:
        with torch.cuda.stream(side):
            yield
    finally:
        outer.wait_stream(side)
