"""What torch and Python keep once in a process, as a value that each training of a group has for itself."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class ProcessState:
    """The state of a process that a training's numbers may depend on.

    What is kept by thread, such as the gradient mode, autocast and the current CUDA stream, needs no place here.

    Attributes:
        torch_random: Of torch's generator on the CPU.
        gpu_random: The state objects of the generators of the GPUs. A captured graph holds its object and reads it at
            each replay, so the object itself is exchanged, and not its content.
        python_random: Of the module ``random``.
        numpy_random: Of NumPy's global generator.
        threads: Number of torch's threads.
        deterministic: Whether kernels that do not repeat are refused.
        warn_only: Whether they are only warned of.
        float32_products: Precision of products of float32 matrices.
        autotuned: Whether cuDNN times its kernels.
    """

    torch_random: Tensor
    gpu_random: tuple[torch.Generator, ...]
    python_random: Any
    numpy_random: Any
    threads: int
    deterministic: bool
    warn_only: bool
    float32_products: str
    autotuned: bool

    @classmethod
    def now(cls) -> ProcessState:
        """Return the present state."""
        return cls(
            torch.get_rng_state(),
            tuple(generator.graphsafe_get_state() for generator in _gpu_generators()),
            random.getstate(),
            np.random.get_state(),
            torch.get_num_threads(),
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.get_float32_matmul_precision(),
            torch.backends.cudnn.benchmark,
        )

    def copy(self) -> ProcessState:
        """Return the same state with generators of its own."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        values["gpu_random"] = tuple(generator.clone_state() for generator in self.gpu_random)
        return ProcessState(**values)

    def restore(self) -> None:
        """Put the state back."""
        torch.set_rng_state(self.torch_random)
        for generator, state in zip(_gpu_generators(), self.gpu_random, strict=True):
            generator.graphsafe_set_state(state)
        random.setstate(self.python_random)
        np.random.set_state(self.numpy_random)
        torch.set_num_threads(self.threads)  # also that of MKL, which cannot be read
        kernels = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
        if kernels != (self.deterministic, self.warn_only):
            torch.use_deterministic_algorithms(self.deterministic, warn_only=self.warn_only)
        if torch.get_float32_matmul_precision() != self.float32_products:
            torch.set_float32_matmul_precision(self.float32_products)
        torch.backends.cudnn.benchmark = self.autotuned


def _gpu_generators() -> tuple[torch.Generator, ...]:
    """Return torch's generators of the GPUs; none before torch has initialised CUDA."""
    return tuple(torch.cuda.default_generators)
