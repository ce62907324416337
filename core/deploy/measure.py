"""What a network costs: parameters, operations, memory and latency."""

from __future__ import annotations

import statistics
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from core.deploy.network import RunNetwork

BATCHES = (1, 64)
ROUNDS = 15
_WARM_UP = 2


@dataclass(frozen=True)
class Latency:
    """Seconds of a forward pass.

    Attributes:
        median: Median over the rounds.
        low: First quartile.
        high: Third quartile.
        rounds: Number of rounds.
    """

    median: float
    low: float
    high: float
    rounds: int


@dataclass(frozen=True)
class Cost:
    """What a network costs.

    Attributes:
        parameters: Number of parameters.
        weight_bytes: Bytes of parameters and buffers.
        flops: Floating-point operations of one image: two for each multiplication with an addition, in convolutions and
            matrix products; other layers are not counted.
        peak_bytes: Largest memory of all tensors during a forward pass, without the weights, by batch size.
        latency: By batch size.
    """

    parameters: int
    weight_bytes: int
    flops: int
    peak_bytes: Mapping[int, int]
    latency: Mapping[int, Latency]

    def as_json(self) -> dict[str, Any]:
        """Return the fields by name, batch sizes as texts."""
        fields = asdict(self)
        for name in ("peak_bytes", "latency"):
            fields[name] = {str(batch): value for batch, value in fields[name].items()}
        return fields


def measure(
    runs: Sequence[RunNetwork], *, device: torch.device, batches: Sequence[int] = BATCHES, rounds: int = ROUNDS
) -> list[Cost]:
    """Measure networks. Their forward passes alternate, so that a change of the machine's speed affects all of them.

    Args:
        runs: The networks.
        device: Where they run, in float32.
        batches: Batch sizes.
        rounds: Number of measurements of each network and batch size.
    """
    modules = [run.deployed().to(device) for run in runs]
    images = [{batch: run.images(batch).to(device) for batch in batches} for run in runs]
    seconds: list[dict[int, list[float]]] = [{batch: [] for batch in batches} for _ in runs]
    with torch.inference_mode():
        for number in range(_WARM_UP + rounds):
            for module, inputs, times in zip(modules, images, seconds, strict=True):
                for batch in batches:
                    elapsed = _seconds(module, inputs[batch])
                    if number >= _WARM_UP:
                        times[batch].append(elapsed)
        costs = []
        for module, inputs, times in zip(modules, images, seconds, strict=True):
            peaks = {batch: peak_bytes(module, inputs[batch]) for batch in batches}
            latency = {batch: _latency(values) for batch, values in times.items()}
            parameters = sum(parameter.numel() for parameter in module.parameters())
            costs.append(
                Cost(parameters, _weight_bytes(module), count_flops(module, inputs[batches[0]]), peaks, latency)
            )
    return costs


def count_flops(module: nn.Module, images: Tensor) -> int:
    """Return the floating-point operations of a forward pass for one image; see ``Cost.flops``."""
    with FlopCounterMode(display=False) as counter:
        module(images)
    return int(counter.get_total_flops()) // len(images)


def peak_bytes(module: nn.Module, images: Tensor) -> int:
    """Return the largest memory of all tensors during a forward pass: the images and what the layers compute.

    Args:
        module: The network.
        images: Its input.
    """
    if images.is_cuda:
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        module(images)
        torch.cuda.synchronize()
        peak: int = torch.cuda.max_memory_allocated() - before
        return int(peak + images.nbytes)
    storages = _Storages(module, images)
    with storages:
        module(images)
    return storages.peak


class _Storages(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages that are alive, except the weights.

    Args:
        module: The network, whose weights are not counted.
        images: Its input, which is counted.
    """

    def __init__(self, module: nn.Module, images: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        weights = [*module.parameters(), *module.buffers()]
        self._known = {weight.untyped_storage()._cdata for weight in weights}
        self.current = self.peak = 0
        self._add(images)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(output):
            if isinstance(leaf, Tensor):
                self._add(leaf)
        return output

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.current += size
        self.peak = max(self.peak, self.current)
        # A storage's Python object lives as long as the storage.
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.current -= size


def _seconds(module: nn.Module, images: Tensor) -> float:
    _wait(images)
    start = time.perf_counter()
    module(images)
    _wait(images)
    return time.perf_counter() - start


def _wait(images: Tensor) -> None:
    if images.is_cuda:
        torch.cuda.synchronize()


def _latency(seconds: Sequence[float]) -> Latency:
    if len(seconds) == 1:
        return Latency(seconds[0], seconds[0], seconds[0], 1)
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return Latency(median, low, high, len(seconds))


def _weight_bytes(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in [*module.parameters(), *module.buffers()])
