"""Networks compiled, and steps recorded: what makes the same arithmetic take fewer and larger kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from core.training.performance import ExecutionPlan

ForwardFn = Callable[[Tensor], Tensor]
"""Images (B, channels, H, W) to logits (B, C)."""


class CompilationError(RuntimeError):
    """Why a network could not be compiled, in a line."""


def compile_network(network: nn.Module, example: Tensor, chosen: ExecutionPlan) -> ForwardFn:
    """A network compiled for batches of one shape; batches of another go through it as it is.

    Compiling happens here and now, by one forward pass, and a backward one where the network learns. The network's
    state, its gradients and torch's random numbers are afterwards as they were.

    Args:
        example: (B, channels, H, W), a batch's shape, device and memory format.

    Raises NotCompiledError for whatever goes wrong: no C++ compiler, a network that cannot be traced, a fault in torch.
    """
    # In this process: a pool of compilers would be as many processes again as the run was given threads.
    import torch._inductor.config

    torch._inductor.config.compile_threads = 1
    learns = any(parameter.requires_grad for parameter in network.parameters())
    # Weights that never change are laid out once as the CPU's kernels want them.
    frozen: dict[str, Any] | None = {"freezing": True} if not learns and example.device.type == "cpu" else None
    quick: ForwardFn = torch.compile(network, dynamic=False, options=frozen)
    try:
        with _untouched(network, example.device), torch.set_grad_enabled(learns):
            with chosen.autocast(example.device):
                logits = quick(example)
            if learns:
                logits.float().sum().backward()  # type: ignore[no-untyped-call]
    except Exception as error:
        raise CompilationError(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}") from error

    def forward(images: Tensor) -> Tensor:
        return quick(images) if images.shape == example.shape else network(images)

    return forward


@contextmanager
def _untouched(network: nn.Module, device: torch.device) -> Iterator[None]:
    """A block after which a network's state and the random numbers are as before, whatever happened in it."""
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
    """A function of tensors, recorded once as a CUDA graph: a call copies its arguments in and replays all kernels.

    Recording runs nothing. Must be made and called on one stream that is not the default one, after the function has
    been called there once, so that whatever it sets up the first time is there.

    Args:
        function: of tensors on the GPU, always of the example's shapes. Python code in it runs while it is recorded and
            never again.
        pool: of memory (``torch.cuda.graph_pool_handle``), shared with an earlier recording that is no longer called.
    """

    def __init__(self, function: Callable[..., Tensor | None], example: Sequence[Tensor], pool: Any = None) -> None:
        self._inputs = [tensor.clone(memory_format=torch.preserve_format) for tensor in example]
        self._graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        # The thread that reads images ahead may ask for pinned memory meanwhile, which is none of the recording's.
        self._graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        try:
            self._output = function(*self._inputs)
        finally:
            self._graph.capture_end()

    def __call__(self, *inputs: Tensor) -> Tensor | None:
        """The function's result, which the next call overwrites."""
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given, non_blocking=True)
        self._graph.replay()
        return self._output


def capture_stream(chosen: ExecutionPlan, device: torch.device) -> AbstractContextManager[object]:
    """A block whose GPU work is in a stream of its own where steps are recorded, which the default one does not allow.

    Work from before the block is waited for by the GPU, and so is the block's by what comes after it.
    """
    return _own_stream(device) if chosen.cuda_graphs else nullcontext()


@contextmanager
def _own_stream(device: torch.device) -> Iterator[None]:
    outer, own = torch.cuda.current_stream(device), torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    own.wait_stream(outer)
    try:
        with torch.cuda.stream(own):
            yield
    finally:
        outer.wait_stream(own)
