"""Why a training cannot go on."""

from __future__ import annotations

from typing import Literal

import torch

FailureKind = Literal["spec", "nan", "oom", "error"]

# What torch says where it has no exception of its own: of the CPU's memory, and of libraries on the GPU.
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


# CUDA's words for what is wrong with the machine and not with the program.
_GPU_BROKEN = (
    "uncorrectable ECC error",
    "uncorrectable NVLink error",
    "hardware stack error",
    "no CUDA-capable device is detected",
    "CUDA-capable device(s) is/are busy or unavailable",
)


class MachineError(Exception):
    """The machine's fault and no failure of the run, which may do well elsewhere or later."""


class TrainingError(Exception):
    """A reason that a person can act on.

    Attributes:
        kind: ``spec`` (it could never have worked), ``nan``, ``oom`` or ``error``.
    """

    def __init__(self, kind: FailureKind, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was refused, a GPU's or the machine's, in whatever words."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


def is_broken_gpu(error: BaseException) -> bool:
    """Whether a GPU does not work, or is somebody else's."""
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _GPU_BROKEN)


def out_of_memory_error(error: BaseException, batch_size: int, *, training: bool) -> TrainingError:
    """The same as a sentence that says what to change.

    Args:
        training: whether it had begun; before, the batch is not what fills the memory.
    """
    detail = str(error).partition("\n")[0][:300] or type(error).__name__
    if training:
        return TrainingError("oom", f"out of memory at batch size {batch_size}; try a smaller one ({detail})")
    text = (
        f"out of memory before the first step (batch size {batch_size}): the data set, the networks and their first "
        f"answers do not fit, which a smaller batch changes little; give it more memory or smaller images ({detail})"
    )
    return TrainingError("oom", text)
