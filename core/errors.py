"""The errors that end a training."""

from __future__ import annotations

from typing import Literal

import torch

FailureKind = Literal["spec", "nan", "oom", "error"]

# Messages of torch for errors without an exception of their own: memory of the CPU, and of libraries on the GPU.
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


# CUDA's messages for faults of the machine and not of the program.
_GPU_BROKEN = (
    "uncorrectable ECC error",
    "uncorrectable NVLink error",
    "hardware stack error",
    "no CUDA-capable device is detected",
    "CUDA-capable device(s) is/are busy or unavailable",
)


class MachineError(Exception):
    """A fault of the machine and not a failure of the run, which may succeed elsewhere or later."""


class TrainingError(Exception):
    """A reason why a training failed that a person can act on.

    Attributes:
        kind: ``spec`` (the run could never have worked), ``nan``, ``oom`` or ``error``.
    """

    def __init__(self, kind: FailureKind, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was refused, that of a GPU or that of the machine."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


def is_broken_gpu(error: BaseException) -> bool:
    """Whether an error says that a GPU does not work, or that another process uses it exclusively."""
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _GPU_BROKEN)


def out_of_memory_error(error: BaseException, batch_size: int, *, training: bool) -> TrainingError:
    """Return the same error with a sentence that says what to change.

    Args:
        error: An error for which ``is_out_of_memory`` holds.
        batch_size: The batch size of the run.
        training: Whether the steps had begun; before, the batch is not what fills the memory.
    """
    detail = str(error).partition("\n")[0][:300] or type(error).__name__
    if training:
        return TrainingError(
            "oom", f"out of memory at batch size {batch_size}; try a smaller one, or training.accumulate ({detail})"
        )
    text = (
        f"out of memory before the first step (batch size {batch_size}): the data set, the networks and their first "
        f"logits do not fit, and a smaller batch changes little; use more memory or smaller images ({detail})"
    )
    return TrainingError("oom", text)
